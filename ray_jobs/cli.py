"""A job as a command: settings, Ray, an MLflow run, an exit code, and a last line that says what was written."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from facelib.config import Settings, SettingsError, parse_command_line
from facelib.tracking import Run
from ray_jobs.cluster import cluster
from ray_jobs.errors import user_error
from ray_jobs.progress import format_seconds


def run_job(
    job: str, work: Callable[[Settings, Run], str], description: str, argv: Sequence[str] | None = None
) -> None:
    """Run `work(settings, run)` as a command.

    Exit 0 only when it did what it says, its return value as the last line.
    """
    settings = parse_command_line(job, description.strip(), argv)
    # Imported here: every Ray worker imports this module, and has no use for what the checks need.
    from ray_jobs.validation import preflight

    try:
        preflight(settings, job)
    except SettingsError as error:
        print(f"{job}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    started = time.monotonic()
    stopped_by = signal.SIGINT

    def terminate(number: int, _: Any) -> None:
        nonlocal stopped_by
        stopped_by = signal.Signals(number)
        signal.signal(number, signal.SIG_IGN)  # A second one would interrupt what ends the run.
        # Not SystemExit, which Ray replaces by one of its own (status 1) when it arrives while it waits.
        raise KeyboardInterrupt

    try:
        with cluster(settings):
            # `ray job stop` and schedulers send SIGTERM: leave through the context managers so that the run ends as
            # FAILED. Set here, because joining a cluster puts a handler in place that aborts.
            signal.signal(signal.SIGTERM, terminate)
            with Run.open(settings, job) as run:
                written = work(settings, run)
    except KeyboardInterrupt:
        print(f"{job}: stopped by {stopped_by.name}; the same command continues", file=sys.stderr)
        raise SystemExit(128 + stopped_by) from None
    except Exception as error:
        found = user_error(error)
        if os.environ.get("FACELIB_TRACEBACK") or found is None:
            raise
        print(f"{job}: {found}", file=sys.stderr)
        raise SystemExit(1) from None
    print(f"{job}: {format_seconds(time.monotonic() - started)}, wrote {written}", flush=True)
