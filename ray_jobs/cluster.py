"""Joining a Ray cluster or starting a local one, and what every process of a job sets up."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from facelib.config import Settings
from ray_jobs.logs import configure_worker_logging, worker_environment

HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"


@contextlib.contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """Join the cluster that the settings name, or start a local one for the duration of the block."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Processes that reserve no share of a GPU see none: libraries use every GPU they see. (Coming versions of Ray will
    # not do that by default.)
    os.environ.setdefault(HIDE_GPUS, "1")
    # Threads that spin while they wait take the cores from readers and generators: five times slower on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Ray Train repeats every printed line as a log record, and logs each step of starting up.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    options: dict[str, Any] = {
        "logging_level": logging.WARNING,
        "runtime_env": {
            "worker_process_setup_hook": "ray_jobs.cluster.setup_worker_process",
            "env_vars": {**worker_environment(), HIDE_GPUS: os.environ[HIDE_GPUS]},
        },
    }
    if settings.ray.autoscaling:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1200")  # New nodes take minutes to start.
    # By default Ray joins the cluster that was started last on this machine, even one that is gone.
    address = settings.ray.address or os.environ.get("RAY_ADDRESS", "") or "local"
    options["address"] = address
    if address == "local":
        options["include_dashboard"] = True  # Ray Train reports every second to a dashboard it expects.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # This machine cannot be preempted.
        # It reports that token authentication is on.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        if settings.ray.object_store_gb:
            options["object_store_memory"] = int(settings.ray.object_store_gb * 1e9)
    ray.init(**options)
    configure_data(settings)
    try:
        yield
    finally:
        ray.shutdown()


def setup_worker_process() -> None:
    """Set up a Ray worker process: logging as in the driver, and the address of its own cluster.

    A helper of Ray Train finds its cluster by RAY_ADDRESS, or else uses the one started last on the machine; with the
    wrong one a training takes twelve seconds to stop.
    """
    import ray

    configure_worker_logging()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address


def configure_data(settings: Settings) -> None:
    """Configure Ray Data for all jobs: no progress bars of its own, and an error instead of an endless wait."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    minutes = settings.ray.no_progress_minutes
    context.execution_no_progress_timeout_s = 60 * (max(minutes, 60) if settings.ray.autoscaling else minutes)
    for noisy in ("ray.data", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # It warns that its progress bars are off.
