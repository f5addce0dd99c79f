"""Jobs as their users start them: a process of their own, that can be killed; or quickly, in the test's process."""

import contextlib
import importlib
import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import psutil

from ray_jobs.cli import main
from ray_jobs.logs import PACKAGES
from support.tracking import new_store

ROOT = Path(__file__).parents[2]
# Ray Train's warning, with its traceback, that its request waited for five seconds: it is safe to ignore, it says.
BUSY_MACHINE = re.compile(
    r"^\(TrainController pid=\d+\) Failed to (send|cancel) resource request .*\n"
    r"(\(TrainController pid=\d+\) .*\n)*?\(TrainController pid=\d+\) ray\.exceptions\.GetTimeoutError.*\n",
    re.MULTILINE,
)
CEILING_S = 600.0  # when a test gives up waiting: many times what anything takes, also on a busy machine


def command(job: str, *arguments: object) -> list[str]:
    """`python -m ray_jobs.<job> arguments…`."""
    return [sys.executable, "-m", f"ray_jobs.{job}", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a job whose MLflow runs go below `folder`, on a cluster of its own."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    return {**clean, "MLFLOW_TRACKING_URI": new_store(folder), "PYTHONUNBUFFERED": "1"}


def run(job: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a job to its end."""
    return subprocess.run(
        command(job, *arguments), cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=CEILING_S
    )


def run_here(job: str, *arguments: object, folder: Path, until: str = "") -> subprocess.CompletedProcess[str]:
    """Run a job's command line to its end in this process, on the Ray that it has initialized: saves starting both.

    Args:
        until: what a worker prints; Ray passes it on with a delay.
    """
    work = getattr(importlib.import_module(f"ray_jobs.{job}"), job)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _process_state(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(work, [str(argument) for argument in arguments])
        except SystemExit as left:
            code = left.code
        if until and not code:
            wait_for(lambda: until in out.getvalue() + err.getvalue(), what=f"the line {until!r}")
    return subprocess.CompletedProcess(command(job, *arguments), code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _process_state(folder: Path) -> Iterator[None]:
    """Undo at the end what a command changes in its process; MLflow runs go below `folder`."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    logs, levels = logging.getLogger().handlers[:], {name: logging.getLogger(name).level for name in PACKAGES}
    try:
        with mock.patch.dict(os.environ, MLFLOW_TRACKING_URI=new_store(folder)):
            yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        logging.getLogger().handlers[:] = logs
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def start(job: str, *arguments: object, folder: Path) -> subprocess.Popen[str]:
    """Start a job; its output goes to <folder>/<job>.log."""
    log = (folder / f"{job}.log").open("w")
    return subprocess.Popen(
        command(job, *arguments), cwd=ROOT, env=environment(folder), stdout=log, stderr=subprocess.STDOUT, text=True
    )


def without_busy_warnings(text: str) -> str:
    """What a job said, without what Ray Train says of a busy machine."""
    return BUSY_MACHINE.sub("", text)


def wait_for(condition: Callable[[], object], seconds: float = CEILING_S, what: str = "condition") -> None:
    """Poll until true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {seconds:.0f} s"
        time.sleep(0.1)


def workers_of(driver: subprocess.Popen[str] | psutil.Process, name: str) -> list[psutil.Process]:
    """Ray worker processes below the process that started the cluster whose title contains `name`."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if any(name in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
