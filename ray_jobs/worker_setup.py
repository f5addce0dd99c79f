"""What every Ray worker process runs first. It imports next to nothing: most processes of a job are Ray's own."""

import os

from facelib.utils.process import look_for_garbage_less
from ray_jobs.logs import configure_worker_logging


def setup_worker_process() -> None:
    """Set up a Ray worker process: logging as in the driver, rare garbage collection, the address of its own cluster.

    A helper of Ray Train finds its cluster by RAY_ADDRESS, or else uses the one started last on the machine; with the
    wrong one a training takes twelve seconds to stop.
    """
    import ray

    configure_worker_logging()
    look_for_garbage_less()
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
