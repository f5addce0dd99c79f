"""Memory of a running job by process over time: does it grow?

    python -m benchmarks.memory --plot runs/memory.png -- ray_jobs.pipeline --config configs/quickstart.yaml
    python -m benchmarks.memory --minutes 60 -- ray_jobs.train_ssl ... --data.stream true --train.epochs 1000
    python -m benchmarks.memory --limit-gb 3.5 -- benchmarks.large_dataset --gigabytes 10

Starts the job as a process of its own, samples all processes below it, Ray's included, and prints for every kind of
process its memory in the second quarter of the time, in the last, and at most. Memory is private memory (resident
without shared pages); the object store, which all processes map, has its own row, as has what it spilled to disk.
`--minutes` stops the job (SIGTERM) when that much time has passed since its first sample.

`--limit-gb` puts the job into a memory control group (Linux, root): the kernel kills processes that exceed it; page
cache is not counted because it can be dropped. Exit status: 1 if the job failed, if the kernel killed any of its
processes for their memory, or if there are too few samples; 3 if it grew by more than `--growth`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

STORE, SPILLED, ALL = "object store", "spilled to disk", "all processes"
KINDS = {"gcs_server": "Ray's GCS", "raylet": "raylet", "dashboard": "dashboard", "runtime_env_agent": "Ray's agents",
         "log_monitor": "Ray's agents", "monitor.py": "Ray's agents", "process_watcher": "Ray's agents"}  # fmt: skip


def main() -> None:
    """Run the job, print the table, write the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="stop the job after this time (0: let it end)")
    parser.add_argument("--every", type=float, default=10, help="seconds between samples")
    parser.add_argument("--growth", type=float, default=0.05, help="relative growth that counts as growing")
    parser.add_argument("--limit-gb", type=float, default=0, help="memory limit of the job, GB (0: none)")
    parser.add_argument("--plot", help="PNG of memory over time")
    parser.add_argument("job", nargs=argparse.REMAINDER, help="-- module and its arguments")
    arguments = parser.parse_args()
    job = arguments.job[1:] if arguments.job[:1] == ["--"] else arguments.job
    if not job:
        parser.error("name the job after --, e.g. -- ray_jobs.train_ssl --config configs/quickstart.yaml")
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(Group.create(arguments.limit_gb)) if arguments.limit_gb else None
        process = subprocess.Popen([sys.executable, "-m", *job], preexec_fn=group.enter if group else None)
        series = watch(process, arguments.every, arguments.minutes * 60)
        status, stopped = process.wait(), series.stopped
        kills = group.kills() if group else 0
    print(table(series))
    if arguments.plot:
        print(f"wrote {draw(series, arguments.plot)}")
    if status not in ((0, 143) if stopped else (0,)):
        raise SystemExit(f"the job ended with status {status}")
    if kills:
        raise SystemExit(f"{kills} processes were killed: {arguments.limit_gb:g} GB are not enough")
    if len(series.seconds) < 8:
        raise SystemExit(f"{len(series.seconds)} samples are too few to tell growth: lower --every")
    share = growth(series, ALL)
    print(f"from a quarter of the time to its end all processes together grew by {share:+.1%}")
    if share > arguments.growth:
        raise SystemExit(3)


@dataclass
class Series:
    """Samples over time.

    Args:
        seconds: since the first sample, [T].
        held: megabytes by kind of process, each [T]; `object store`, `spilled to disk` and `all processes` among them.
        processes: most processes of a kind at one time.
        stopped: the job was stopped because its time was over.
    """

    seconds: list[float]
    held: dict[str, list[float]]
    processes: Counter[str]
    stopped: bool = False


def watch(process: subprocess.Popen[bytes], every: float, limit: float) -> Series:
    """Sample a process and all below it until it ends, or stop it after `limit` seconds (0: never)."""
    series, begin = Series([], defaultdict(list), Counter()), time.monotonic()
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):
            _sample(series, psutil.Process(process.pid), time.monotonic() - begin)
        if limit and time.monotonic() - begin > limit and not series.stopped:
            process.send_signal(signal.SIGTERM)
            series.stopped = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(every)
            return series


def _sample(series: Series, root: psutil.Process, seconds: float) -> None:
    held: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    for member in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            name, memory = kind(member.cmdline(), member.pid == root.pid), member.memory_info()
            held[name] += (memory.rss - memory.shared) / 1e6
            count[name] += 1
            if name == "raylet":
                # Pages of the store that were touched; the raylet maps all of it, and little else is shared with it.
                held[STORE] += memory.shared / 1e6
                held[SPILLED] += _spilled(member.cmdline()) / 1e6
    held[ALL] = sum(value for name, value in held.items() if name != SPILLED)
    for name in {*held, *series.held}:
        past = series.held[name]
        past.extend([0.0] * (len(series.seconds) - len(past)))  # kinds that came later had nothing before
        past.append(held.get(name, 0.0))
    series.seconds.append(seconds)
    series.processes |= count


def kind(command: Sequence[str], root: bool = False) -> str:
    """Name of a process by its command line."""
    if root:
        return "the job itself"
    line = " ".join(command)
    title = line.split("::", 1)
    if len(title) == 2 and title[0].endswith("ray"):
        # Ray's titles: `ray::Actor.method`, `ray::task()`, `ray::IDLE`.
        name = title[1].split()[0].split(".")[0].removesuffix("()")
        return "idle workers" if name == "IDLE" else name.lstrip("_")  # Matplotlib hides what begins with it
    return next((name for word, name in KINDS.items() if word in line), "others")


def _spilled(raylet: Sequence[str]) -> int:
    session = next((word.split("=", 1)[1] for word in raylet if word.startswith("--session_dir=")), "")
    files = Path(session).glob("ray_spilled_objects*/*") if session else ()
    total = 0
    for path in files:
        with contextlib.suppress(OSError):  # deleted meanwhile
            total += path.stat().st_size
    return total


def growth(series: Series, name: str) -> float:
    """Growth from the second quarter of the time to the last, of the medians there, as a share of the former."""
    before, after = medians(series, name)
    return (after - before) / before if before else 0.0


def medians(series: Series, name: str) -> tuple[float, float]:
    """Medians of the second quarter of the time and of the last."""
    values = np.asarray(series.held[name])
    quarters = np.array_split(values[: -1 if len(values) > 8 else None], 4)  # the last sample may be of the end
    return float(np.median(quarters[1])), float(np.median(quarters[3]))


def table(series: Series) -> str:
    """Markdown: every kind of process that ever held 20 MB, the largest first."""
    lines = ["| memory, MB | processes | second quarter | last quarter | most | growth |", "|---|---|---|---|---|---|"]
    for name, values in sorted(series.held.items(), key=lambda item: -max(item[1])):
        if max(values) < 20 or len(values) < 4:
            continue
        second, last = medians(series, name)
        count = series.processes[name] or ""
        lines.append(
            f"| {name} | {count} | {second:,.0f} | {last:,.0f} | {max(values):,.0f} | {growth(series, name):+.1%} |"
        )
    return "\n".join(lines)


def draw(series: Series, path: str) -> Path:
    """Memory over time, one line per kind of process above 2 % of the total."""
    from matplotlib.figure import Figure

    from facelib.plots.style import COLORS, save, tidy

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    minutes = np.asarray(series.seconds) / 60
    most = max(series.held[ALL])
    shown = [n for n, v in sorted(series.held.items(), key=lambda i: -max(i[1])) if max(v) > 0.02 * most]
    colors = [color for color in COLORS if color != "#000000"]
    for number, name in enumerate(shown, -1):
        line: dict[str, Any] = {"color": "black"} if name == ALL else {"color": colors[number % len(colors)]}
        if number >= len(colors):
            line["ls"] = "--"
        axes.plot(minutes, np.asarray(series.held[name]) / 1e3, lw=1.2, label=name, **line)
    axes.set(xlabel="minutes", ylabel="private memory, GB", ylim=(0, None))
    tidy(axes)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return save(figure, path)


@dataclass(frozen=True)
class Group:
    """A memory control group of Linux, version 1 or 2."""

    folder: Path

    @classmethod
    @contextlib.contextmanager
    def create(cls, gigabytes: float) -> Iterator[Group]:
        """A group with this limit, for the duration of the block."""
        root, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        if not root.is_dir():
            root, limit = root.parent, "memory.max"
        group = cls(Path(tempfile.mkdtemp(prefix="facelib-", dir=root)))
        (group.folder / limit).write_text(str(int(gigabytes * 1e9)))
        try:
            yield group
        finally:
            for _ in range(50):  # the last processes are still leaving
                with contextlib.suppress(OSError):
                    group.folder.rmdir()
                    break
                time.sleep(0.2)

    def enter(self) -> None:
        """Move the calling process, and all it will start, into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        """Processes that the kernel killed because the group was full."""
        events = next(p for n in ("memory.oom_control", "memory.events") if (p := self.folder / n).exists())
        counts = dict(line.split() for line in events.read_text().splitlines())
        return int(counts.get("oom_kill", 0))


if __name__ == "__main__":
    main()
