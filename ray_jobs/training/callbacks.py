"""Callbacks of Ray Train's controller, which runs on the driver's node: epochs to MLflow, and failing fast.

Workers need no connection to the tracking server: it may listen on the driver's machine only. (Trials of a sweep
report to the sweep, which logs for them: `ray_jobs.tuning`.)
"""

import logging
from typing import Any

from ray.train import Checkpoint, UserCallback

from facelib.data import StorageError
from facelib.tracking import Run
from ray_jobs.errors import user_error

LOGGED = "logged"  # key of a report whose value, metrics of an epoch by name, goes to MLflow


class MLflowCallback(UserCallback):
    """Logs a training's epochs.

    Args:
        tracking_uri, run_id: the open MLflow run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri, self.run_id = tracking_uri, run_id
        self.run: Run | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Log what rank 0 reported of an epoch."""
        logged = metrics[0].get(LOGGED)
        if logged:
            self.run = self.run or Run.attach(self.tracking_uri, self.run_id)
            self.run.log_epoch(logged, metrics[0]["epoch"])


class FailFastCallback(UserCallback):
    """Ends a training that would fail again in the same way."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Raise an error that the user must fix, so that Ray Train stops; others are left to train.max_failures."""
        for error in worker_exceptions.values():
            shown = user_error(error)
            if shown is not None and not isinstance(shown, (StorageError, ConnectionError)):
                # The worker has printed where it happened; the controller's own stack says nothing more.
                logging.getLogger("ray.train").setLevel(logging.CRITICAL)
                raise shown
