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

# Keys of a report whose values, metrics by name, go to MLflow: of an epoch, and of the steps since the last ones.
LOGGED, LOGGED_STEPS = "logged", "logged_steps"


class MLflowCallback(UserCallback):
    """Logs a training's epochs, by their number, and what is reported in between below `steps/`, by the step.

    Args:
        tracking_uri, run_id: the open MLflow run.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.tracking_uri, self.run_id = tracking_uri, run_id
        self.run: Run | None = None

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        """Log what rank 0 reported."""
        report = metrics[0]
        epoch = report.get(LOGGED)
        steps = {f"steps/{name}": value for name, value in report.get(LOGGED_STEPS, {}).items()}
        if epoch or steps:
            self.run = self.run or Run.attach(self.tracking_uri, self.run_id)
        if self.run and epoch:
            self.run.log_epoch(epoch, report["epoch"])
        if self.run and steps:
            self.run.log_metrics(steps, step=report["step"])


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
