"""Models that evaluation and inspection embed with: checkpoints, and the baselines beside them.

Shape legend: N faces, H and W pixels, D embedding size.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facelib.config import EvaluateSettings, InspectSettings, Settings
from facelib.config.evaluation import WHITENED
from facelib.data import DatasetError, FaceDataset, Folder, ImageSpec, decode_image
from facelib.data.storage import local_copy
from facelib.evaluation import PixelEmbedding, WhitenedLBP, WhitenedPixels
from facelib.evaluation.protocols import EvaluationSet
from facelib.utils.flip import FlipRule
from ray_jobs.errors import JobError

if TYPE_CHECKING:
    from facelib.models.checkpoints import BackboneCheckpoint

Network = Callable[[NDArray[np.uint8], FlipRule], NDArray[np.float32]]


@dataclass(frozen=True)
class EmbeddingModel:
    """A model that embeds faces.

    Attributes:
        name: in tables.
        path: checkpoint, path or URI; for an untrained network, the checkpoint of its architecture; empty for pixels.
        untrained: the checkpoint's architecture with random weights.
        pixels: a baseline without a network.
        normalization: the setting `model.normalization`, for checkpoints that do not state theirs.
    """

    name: str
    path: str = ""
    untrained: bool = False
    pixels: PixelEmbedding | WhitenedPixels | WhitenedLBP | None = None
    normalization: str = "auto"

    @property
    def trained(self) -> bool:
        """Whether it is a model under evaluation, not a baseline."""
        return not self.untrained and self.pixels is None

    def fingerprint(self) -> str:
        """Hash of everything that decides its embeddings, except precision and flip."""
        digest = hashlib.sha256(f"{self.untrained}".encode())
        if self.pixels is not None:
            for name, value in sorted(vars(self.pixels).items()):
                digest.update(name.encode() + np.asarray(value).tobytes())
            digest.update(type(self.pixels).__name__.encode())
        else:
            with local_copy(self.path) as path:
                digest.update(path.read_bytes())
            if self.normalization != "auto":
                digest.update(self.normalization.encode())
        return digest.hexdigest()

    def load(self, cfg: EvaluateSettings | InspectSettings) -> Network:
        """Function of images (uint8 [N, H, W, 3] RGB) and flip to embeddings [N, D], on a GPU if the actor has one."""
        if self.pixels is not None:
            return self.pixels.embed
        import torch

        from facelib.embedding import embed_images, load_face_model
        from facelib.models import build_backbone, read_checkpoint
        from facelib.utils.devices import actor_device

        device = actor_device(cfg.gpus_per_actor, cfg.cpus_per_actor)
        if self.untrained:
            checkpoint = read_checkpoint(self.path)
            torch.manual_seed(0)
            backbone = build_backbone(checkpoint.name, **checkpoint.settings)
        else:
            backbone = load_face_model(self.path, self.normalization)
        backbone = backbone.to(device).eval().to(memory_format=torch.channels_last)
        return lambda images, flip: embed_images(backbone, images, flip, cfg.batch_size, cfg.precision)


def read_model_checkpoint(model: EmbeddingModel, sets: Sequence[EvaluationSet]) -> "BackboneCheckpoint":
    """Read the checkpoint of a model that is evaluated on `sets`, without its weights: there may be many models.

    Published formats state no image spec: what a checkpoint does not state is assumed to be as in the sets.

    Raises:
        JobError: the file does not exist.
        DatasetError: the checkpoint was trained with another image spec than a set's.
        CheckpointError: it does not state its pixel normalization.
    """
    from facelib.models import read_checkpoint

    try:
        checkpoint = read_checkpoint(model.path)
    except FileNotFoundError as error:
        raise JobError(f"evaluate.models: {error}; train it first, or name another checkpoint") from None
    checkpoint.require_normalization(model.path, model.normalization)
    for s in sets:
        trained_on = s.image_spec.overlaid(checkpoint.image_spec)
        trained_on.require(s.image_spec, f"model {model.name}", f"set {s.name}")
    unstated = ", ".join(field for field in ImageSpec.model_fields if field not in (checkpoint.image_spec or {}))
    if unstated:
        print(f"{model.name}: the checkpoint does not state its {unstated}; assumed to be as in the sets", flush=True)
    return dataclasses.replace(checkpoint, state_dict={})


def model_names(paths: Sequence[str]) -> list[str]:
    """A name for each checkpoint: that of its folder if it is called model.pt, with parent folders where two match.

    `ssl/model-whitened.pt` is `ssl-whitened`.
    """
    stems = [Path(path).with_suffix("").parts for path in paths]
    stems = [
        (*stem[:-2], stem[-2] + stem[-1].removeprefix("model"))
        if stem[-1] in ("model", f"model{WHITENED}") and len(stem) > 2
        else stem
        for stem in stems
    ]
    names = ["-".join(stem[-1:]) for stem in stems]
    for length in range(2, max(map(len, stems), default=1) + 1):
        names = [
            "-".join(stem[-length:]).replace("/", "") if names.count(name) > 1 else name
            for name, stem in zip(names, stems, strict=True)
        ]
    return names


def untrained_models(
    models: Sequence[EmbeddingModel], checkpoints: "dict[str, BackboneCheckpoint]"
) -> list[EmbeddingModel]:
    """One untrained network for each architecture among the models.

    Args:
        checkpoints: of the models, by name.
    """
    architectures: dict[str, str] = {}
    for model in models:
        checkpoint = checkpoints[model.name]
        architectures.setdefault(json.dumps([checkpoint.name, checkpoint.settings], sort_keys=True), model.path)
    count = len(architectures)
    names = ["untrained"] if count == 1 else [f"untrained {number}" for number in range(1, count + 1)]
    paths = architectures.values()
    return [EmbeddingModel(name, path, untrained=True) for name, path in zip(names, paths, strict=True)]


def pixel_baselines(settings: Settings, sets: Sequence[EvaluationSet]) -> list[tuple[EmbeddingModel, EvaluationSet]]:
    """Raw pixels on every set; pixels and LBP whitened on the training faces on each set of their image spec.

    Prints which sets are left out, and why.
    """
    raw = EmbeddingModel("raw pixels", pixels=PixelEmbedding())
    work = [(raw, s) for s in sets]
    try:
        dataset = FaceDataset(settings.path(settings.data.dataset))
    except DatasetError as error:
        print(f"whitened baselines are left out, there are no faces to fit them on: {error}", flush=True)
        return work
    matching = []
    for s in sets:
        try:
            dataset.image_spec.require(s.image_spec, f"dataset {dataset.folder.uri}", f"set {s.name}")
            matching.append(s)
        except DatasetError as error:
            print(f"whitened baselines are left out on {s.name}: {error}", flush=True)
    if matching:
        faces = sample_faces(dataset, settings.evaluate.baseline_images)
        fitted: dict[str, WhitenedPixels | WhitenedLBP] = {
            "whitened pixels": WhitenedPixels.fit(faces),
            "whitened LBP": WhitenedLBP.fit(faces),
        }
        work += [(EmbeddingModel(name, pixels=model), s) for name, model in fitted.items() for s in matching]
    return work


def sample_faces(dataset: FaceDataset, count: int) -> NDArray[np.uint8]:
    """Up to `count` faces, spread over all parts of a dataset: uint8 [N, H, W, 3]."""
    per_part = -(-count // len(dataset.manifest.parts))
    images: list[NDArray[np.uint8]] = []
    for table in dataset.tables(["image"]):
        step = max(1, len(table) // per_part)
        images += [decode_image(data) for data in table["image"].to_pylist()[::step][:per_part]]
    return np.stack(images[:count])


def training_summary(model: EmbeddingModel, checkpoint: "BackboneCheckpoint") -> dict[str, Any]:
    """Loss and training accuracy of the selected epoch, from the history beside the checkpoint.

    Empty for checkpoints of other codebases.
    """
    parent, _, _ = model.path.rpartition("/")
    folder = Folder(parent or ".")
    if not folder.exists("history.json"):
        return {}
    history = json.loads(folder.read("history.json"))
    best = (checkpoint.image_spec or {}).get("training", {}).get("epoch")
    epochs = [epoch for epoch in history if epoch["epoch"] == best] or history[-1:]
    names = ("epoch", "loss", "contrast_accuracy", "train_accuracy")
    return {name: value for epoch in epochs for name, value in epoch.items() if name in names}
