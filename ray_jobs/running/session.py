"""What every job does around its work.

Settings, Ray, an MLflow run, an exit code, and a last line that says what was written.
"""

import contextlib
import errno
import importlib.metadata
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from facelib.config import Settings, SettingsError, parse_command_line
from facelib.tracking import Run


class JobError(RuntimeError):
    """A job that cannot do what it was asked; the message says what was wrong and what to do."""


def run_job(
    job: str, work: Callable[[Settings, Run], str], description: str, argv: Sequence[str] | None = None
) -> None:
    """Run `work(settings, run)` as a command.

    Exit 0 only when it did what it says, its return value as the last line.
    """
    settings = parse_command_line(job, description.strip(), argv)
    # Imported here: every Ray worker imports this module, and has no use for what the checks need.
    from ray_jobs.running.preflight import preflight

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


def user_error(error: BaseException) -> BaseException | None:
    """The error, or one it was caused by, whose message tells the user what to do; None when a traceback is needed.

    Errors of Ray tasks and workers carry the original as their cause.
    """
    from facelib.tracking import TrackingError

    known = (JobError, TrackingError, FileNotFoundError, PermissionError, ImportError, ConnectionError)
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        # facelib raises ValueError, and kinds of it, for what a caller got wrong; libraries raise it for anything.
        ours = type(current) is ValueError or type(current).__module__.startswith("facelib")
        if isinstance(current, known) or (isinstance(current, ValueError) and ours):
            return current
        if isinstance(current, OSError) and current.errno == errno.ENOSPC:
            return current
        if type(current).__name__ == "ExecutionTimeoutError":
            first, *more = str(current).splitlines()
            waiting = "; ".join(line.removeprefix("  - ") for line in more if line.startswith("  - "))
            return JobError(
                f"{first} {waiting}. Is there room for the actors, and does storage answer? Where one step takes so "
                "long, raise ray.no_progress_minutes"
            )
        failures = getattr(current, "worker_failures", None) or {}
        inside = next((e for n in ("cause", "controller_failure") if (e := getattr(current, n, None))), None)
        current = inside or next(iter(failures.values()), None) or current.__cause__
    return None


@contextlib.contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """Join the cluster the settings name, or start a local one for the length of the job."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray asks the accelerators' visibility variables to be left alone when an actor holds no GPU.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Threads that spin while they wait take the cores from readers and generators: five times slower on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Ray Train repeats every printed line as a log record, and logs each step of starting up.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    options: dict[str, Any] = {
        "logging_level": logging.WARNING,
        "runtime_env": {"worker_process_setup_hook": "ray_jobs.running.session.quiet_worker"},
    }
    if settings.ray.autoscaling:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1200")  # A machine takes minutes to come.
    # Without a word Ray would join whichever cluster was started last on this machine, dead or alive.
    address = settings.ray.address or os.environ.get("RAY_ADDRESS", "") or "local"
    options["address"] = address
    if address == "local":
        options["include_dashboard"] = True  # Ray Train reports every second to a dashboard it expects.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # Nobody takes this machine away.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # Token authentication is on: good.
        if settings.ray.object_store_gb:
            options["object_store_memory"] = int(settings.ray.object_store_gb * 1e9)
    ray.init(**options)
    configure_data(settings)
    try:
        yield
    finally:
        ray.shutdown()


def quiet_worker() -> None:
    """Setup of every Ray worker process: warnings and errors only, and no doubt which cluster it belongs to.

    A helper of Ray Train looks its cluster up by the environment, or else takes the one started last on the machine;
    where that is another one, a training takes twelve seconds to stop.
    """
    import ray

    logging.disable(logging.INFO)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def configure_data(settings: Settings) -> None:
    """Ray Data as all jobs want it: our own progress, and an error in place of an endless wait."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    minutes = settings.ray.no_progress_minutes
    context.execution_no_progress_timeout_s = 60 * (max(minutes, 60) if settings.ray.autoscaling else minutes)
    for noisy in ("ray.data", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # Warns that its own bars are off.


def versions() -> dict[str, str]:
    """Versions of what decides a result's bytes."""
    names = ("facelib", "numpy", "torch", "opencv-python", "onnxruntime", "tensorflow", "mtcnn", "pyarrow", "ray")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def format_seconds(seconds: float) -> str:
    """`75.2` → `1 min 15 s`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
