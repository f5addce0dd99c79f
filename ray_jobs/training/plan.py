"""What the driver decides about a training, once, and hands to every rank."""

from dataclasses import dataclass
from typing import Any

from facelib.config import AugmentSettings, Settings
from facelib.data import FaceDataset
from facelib.data.storage import file_sha256
from facelib.evaluation.protocols import parse_spec
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.online_faces import training_faces_spec

STORAGE_NAME = "training"  # where Ray Train keeps its checkpoints, below the training's folder

# Settings of `train` that do not decide the trained weights.
# Settings of the augmentation that trainings on disk may not know: they count where they are not the default.
YOUNGER = ("decoder", "policy", "operations")
OPERATIONAL = (
    "cpus_per_worker", "threads", "use_gpu", "gpus_per_worker", "max_failures", "keep_checkpoints", "checkpoint_every",
    "checkpoint_seconds", "log_every", "compile", "cudnn_benchmark", "extend",
)  # fmt: skip


@dataclass(frozen=True)
class TrainingPlan:
    """A training, or a segment of one in a sweep. Plain data: it is pickled to the ranks.

    Args:
        settings: with absolute paths, because ranks run in other folders.
        method: `ssl` or `unpg`.
        uri: folder of the training; checkpoints go to `storage` below it.
        warm_start_from: storage of another training whose last state this one starts from; empty: from the beginning.
        stop_epoch: last epoch to train (0: of the whole training).
        in_process: train in the caller's process instead of a worker group.
        face_pool: name of the actor pool that generates faces for a training without a dataset.
    """

    settings: Settings
    method: str
    uri: str
    warm_start_from: str = ""
    stop_epoch: int = 0
    in_process: bool = False
    face_pool: str = ""

    @classmethod
    def create(cls, settings: Settings, method: str, uri: str, **span: Any) -> "TrainingPlan":
        """Plan `method` below `uri`; `span` gives the other fields."""
        return cls(_with_absolute_paths(settings), method, uri, **span)

    @property
    def storage(self) -> str:
        """Folder of the checkpoints."""
        return f"{self.uri}/{STORAGE_NAME}"

    @property
    def last_epoch(self) -> int:
        """Epoch after which this plan ends."""
        return self.stop_epoch or self.settings.train.epochs


def training_spec(settings: Settings, faces: TrainingFaces, method: str) -> dict[str, Any]:
    """Every setting that decides the trained weights; an output folder holds one training only."""
    tree = settings.model_dump(mode="json", include={"seed", "model", "augment", method, "train"})
    # Validation sets decide nothing unless the model is selected by them.
    train = settings.train
    watched = [] if train.selection == "sets" else ["sets"]
    # Nor do their rules; those of later versions count where they differ from what was before.
    for name, former in (("selection_sets", []), ("selection_metric", "auto"), ("flip", "none")):
        if train.selection != "sets" or getattr(train, name) == former:
            watched.append(name)
    # The number of workers of an elastic training may change.
    elastic = ("workers", "min_workers") if settings.train.min_workers else ("min_workers",)
    for name in (*OPERATIONAL, *watched, *elastic):
        tree["train"].pop(name)
    tree["augment"].pop("device")
    for name in YOUNGER:
        if tree["augment"][name] == AugmentSettings.model_fields[name].default:
            tree["augment"].pop(name)
    spec = {f"{section}.{k}": v for section, values in tree.items() if section != "seed" for k, v in values.items()}
    spec |= {"seed": settings.seed, "data.window_row_groups": settings.data.window_row_groups}
    for name in ("continue_from", "continue_epoch") if not settings.train.continue_from else ():
        spec.pop(f"train.{name}")
    if settings.train.continue_from:
        spec["train.continue_from"] = file_sha256(settings.path(settings.train.continue_from))
    if settings.model.init_from:  # The content counts, not the path.
        spec["model.init_from"] = file_sha256(settings.path(settings.model.init_from))
    spec |= training_faces_spec(settings, faces)
    if train.selection == "sets":
        rules = {name: getattr(settings.evaluate, name) for name in ("published", "accuracy_rule", "far_rule", "flip")}
        spec |= {f"evaluate.{name}": rule for name, rule in rules.items() if rule not in ("none", "auto")}
    if settings.train.selection == "heldout":
        heldout = FaceDataset(settings.path(settings.data.heldout))
        spec |= {"data.heldout parts": [p.sha256 for p in heldout.manifest.parts]}
        spec |= {"evaluate.pairs": settings.evaluate.pairs}
    return spec


def _with_absolute_paths(settings: Settings) -> Settings:
    sets = [parse_spec(text).absolute() for text in settings.train.sets]
    init_from, continue_from = (
        settings.path(value) if value else "" for value in (settings.model.init_from, settings.train.continue_from)
    )
    return settings.model_copy(
        update={
            "output": settings.path("").rstrip("/"),
            "train": settings.train.model_copy(update={"sets": sets, "continue_from": continue_from}),
            "model": settings.model.model_copy(update={"init_from": init_from}),
        }
    )
