"""MLflow: one run a job, found again after a crash, never left RUNNING by a process that has ended.

The driver opens and closes a run; a training's controller, on the same machine, attaches to it by id (`Run.attach`)
and only logs. Nothing is logged from other machines, so a server that listens on the driver's (`MLFLOW_TRACKING_URI`),
or sqlite, serves a whole cluster.
"""

from facelib.tracking.run import Run
from facelib.tracking.store import TrackingError, check_store, tracking_uri

__all__ = ["Run", "TrackingError", "check_store", "tracking_uri"]
