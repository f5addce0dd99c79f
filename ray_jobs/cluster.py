"""Joining a Ray cluster or starting a local one, and what every process of a job sets up."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from facelib.config import Settings


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
        "runtime_env": {"worker_process_setup_hook": "ray_jobs.cluster.setup_worker_process"},
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


def setup_worker_process() -> None:
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
