"""The folder of a sweep, and the settings that a folder belongs to."""

from typing import Any

from facelib.config import Settings
from facelib.data import Folder
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.plan import training_spec

# Settings that may change when a sweep is continued: more trials or finalists can be added.
CHANGEABLE = (
    "folder", "trials", "concurrency", "in_process", "max_failures", "finalists", "finalist_seeds", "final_seeds",
    "final", "heatmap", "time_budget", "callbacks", "export_optuna",
)  # fmt: skip


def sweep_folder(settings: Settings) -> Folder:
    """Folder of a sweep's results and trials, created if missing."""
    return Folder(settings.path(settings.tune.folder)).create()


def sweep_spec(settings: Settings, faces: TrainingFaces) -> dict[str, Any]:
    """Everything that determines the trials; a folder holds one sweep only."""
    changeable = set(CHANGEABLE)
    if settings.tune.scheduler == "pbt" or settings.tune.search == "grid":
        changeable.discard("trials")
    tune = settings.tune.model_dump(mode="json")
    spec = training_spec(settings, faces, settings.tune.method)
    return spec | {f"tune.{name}": value for name, value in tune.items() if name not in changeable}
