"""Jobs as their users start them: a process of their own, that can be killed."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def command(job: str, *arguments: object) -> list[str]:
    """`python -m ray_jobs.<job> arguments…`."""
    return [sys.executable, "-m", f"ray_jobs.{job}", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a job whose MLflow runs go below `folder`, on a cluster of its own."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_ID")}
    return {**clean, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "PYTHONUNBUFFERED": "1"}


def run(job: str, *arguments: object, folder: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a job to its end."""
    return subprocess.run(
        command(job, *arguments), cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=timeout
    )


def start(job: str, *arguments: object, folder: Path) -> subprocess.Popen[str]:
    """Start a job; its output goes to <folder>/<job>.log."""
    log = (folder / f"{job}.log").open("w")
    return subprocess.Popen(
        command(job, *arguments), cwd=ROOT, env=environment(folder), stdout=log, stderr=subprocess.STDOUT, text=True
    )


def wait_for(condition: Callable[[], object], seconds: float = 240, what: str = "condition") -> None:
    """Poll until true; AssertionError after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {seconds:.0f} s"
        time.sleep(0.05)


def workers_of(driver: subprocess.Popen[str], name: str) -> list[psutil.Process]:
    """Ray worker processes below a driver whose title contains `name`."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if any(name in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found
