"""benchmarks/memory.py on real processes: one that grows, one that does not, one that takes more than it may."""

import os
import subprocess
import sys

import pytest
from support.commands import CEILING_S, ROOT

from benchmarks.memory import kind

WARM = "import time\nheld = [bytearray(80_000_000)]\ntime.sleep(0.4)\n"
JOBS = {
    "steady": WARM + "time.sleep(2.5)\n",
    "growing": WARM + "for _ in range(20):\n    held.append(bytearray(10_000_000))\n    time.sleep(0.12)\n",
    "failing": WARM + "raise SystemExit(7)\n",
    "endless": "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n" + WARM
    + "import subprocess\nsubprocess.run([sys.executable, '-c', 'import time; x = bytearray(60_000_000); "
    "time.sleep(5)'])\ntime.sleep(600)\n",
    "greedy": "import subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', 'held = [bytearray(20_000_000) for _ in range(40)]'])\n",
}  # fmt: skip


@pytest.fixture
def watched(tmp_path):
    """Function: the recorder's result on one of the jobs."""
    for name, text in JOBS.items():
        (tmp_path / f"{name}_job.py").write_text(text)

    def run(name, *flags):
        paths = os.pathsep.join((str(ROOT), str(tmp_path)))
        command = [sys.executable, "-m", "benchmarks.memory", "--every", "0.1", *flags, "--", f"{name}_job"]
        return subprocess.run(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            timeout=CEILING_S,
        )

    return run


def rows(done):
    """The printed table: {kind: [processes, second quarter, last quarter, most, growth]}."""
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    return {name: values for name, *values in lines[1:]}


def test_a_steady_job_passes_and_is_plotted(watched, tmp_path):
    done = watched("steady", "--plot", str(tmp_path / "memory.png"))
    assert done.returncode == 0, done.stdout + done.stderr
    second, last, most = (float(v) for v in rows(done)["the job itself"][1:4])
    assert 75 < second == pytest.approx(last, rel=0.01)
    assert most == pytest.approx(last, rel=0.01)
    assert (tmp_path / "memory.png").read_bytes().startswith(b"\x89PNG")


def test_a_growing_job_is_reported(watched):
    done = watched("growing")
    assert done.returncode == 3, done.stdout + done.stderr
    second, last = (float(v) for v in rows(done)["all processes"][1:3])
    assert last > second + 40


def test_a_failed_job_is_a_failure(watched):
    done = watched("failing")
    assert done.returncode == 1
    assert "the job ended with status 7" in done.stderr


def test_a_job_is_stopped_at_its_time_limit_and_its_children_count(watched):
    done = watched("endless", "--minutes", "0.05", "--growth", "9")
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(rows(done)["others"][3]) > 55


def test_processes_killed_for_their_memory_are_a_failure(watched):
    """Also where the job itself goes on without them, as Ray does."""
    if os.geteuid() != 0 or not os.access("/sys/fs/cgroup/memory", os.W_OK):
        pytest.skip("memory control groups of version 1 need root and a writable /sys/fs/cgroup/memory")
    done = watched("greedy", "--limit-gb", "0.3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "processes were killed: 0.3 GB are not enough" in done.stderr


def test_a_few_samples_tell_nothing(watched):
    done = watched("steady", "--every", "1")
    assert done.returncode == 1
    assert "samples are too few" in done.stderr


def test_processes_are_named_by_what_they_do():
    assert kind(["ray::GeneratorActor.__call__"]) == "GeneratorActor"
    assert kind(["ray::read_faces()"]) == "read_faces"
    assert kind(["ray::IDLE"]) == "idle workers"
    assert kind(["/x/ray/core/src/ray/raylet/raylet", "--raylet_socket_name=a"]) == "raylet"
    assert kind(["python", "/x/ray/dashboard/dashboard.py"]) == "dashboard"
    assert kind(["sleep", "1"]) == "others"
