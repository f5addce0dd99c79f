"""Validation of a training: held-out synthetic pairs, which may select the model, and real verification sets.

The ranks share the work: each embeds its part of a set's images, in the batches in which one rank would embed them all,
with the BatchNorm statistics of rank 0, whose model is kept.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from facelib.config import Settings
from facelib.data import ImageSpec
from facelib.data.pairs import PairSet
from facelib.embedding import NonFiniteEmbeddingError, embed_images
from facelib.evaluation import kfold_accuracy, roc_auc
from facelib.evaluation.protocols import SetSpec, parse_spec
from facelib.sources.pair_sets import load_pair_set
from facelib.utils import distributed
from facelib.utils.arrays import l2_normalize
from facelib.utils.flip import FlipRule
from ray_jobs.errors import JobError


@dataclass(frozen=True)
class ValidationResult:
    """Metrics by name, and the one that selects the best model."""

    metrics: dict[str, float]
    selected: float


class Validator:
    """Evaluates a backbone on its validation sets.

    Args:
        image_spec: of the training faces; a set with another one is refused.
    """

    def __init__(self, settings: Settings, image_spec: ImageSpec) -> None:
        self.by_sets = settings.train.selection == "sets"
        self.precision, self.batch_size = settings.train.precision, settings.evaluate.batch_size
        self.heldout: PairSet | None = None
        if settings.data.heldout and settings.train.selection == "heldout":
            uri = settings.path(settings.data.heldout)
            self.heldout = load_pair_set(uri, settings.evaluate.pairs, settings.seed, name="heldout")
        specs = [parse_spec(text) for text in settings.train.sets]
        self.sets = [_open(spec, settings) for spec in specs]
        self.flips: dict[str, FlipRule] = {spec.name: spec.options.get("flip", "none") for spec in specs}
        for pair_set in [*self.sets, *([self.heldout] if self.heldout else [])]:
            image_spec.require(pair_set.image_spec, "the training dataset", f"set {pair_set.name}")

    def evaluate(self, backbone: nn.Module) -> ValidationResult:
        """ROC-AUC on every set and k-fold accuracy on the real ones.

        Without flipped images, unless a set has the option `flip`: it halves the time and ranks models in the same
        order. All ranks call it together, and all have the result.
        """
        metrics: dict[str, float] = {}
        with _buffers_of_rank_0(backbone):
            for pair_set in [*([self.heldout] if self.heldout else []), *self.sets]:
                try:
                    embeddings = l2_normalize(self._embed(backbone, pair_set))
                except NonFiniteEmbeddingError as error:
                    raise JobError(f"validation set {pair_set.name}: {error}") from None
                first, second = embeddings[pair_set.first], embeddings[pair_set.second]
                metrics[f"{pair_set.name}/auc"] = roc_auc((first * second).sum(1), pair_set.issame)
                if pair_set is not self.heldout:
                    metrics[f"{pair_set.name}/accuracy"] = kfold_accuracy(first, second, pair_set.issame).accuracy
        if self.by_sets:
            return ValidationResult(metrics, float(np.mean([metrics[f"{s.name}/accuracy"] for s in self.sets])))
        return ValidationResult(metrics, metrics[f"{self.heldout.name}/auc"] if self.heldout else 0.0)

    def line(self, metrics: dict[str, float], epochs: int) -> str:
        """The console line of an epoch."""
        words = [f"epoch {int(metrics['epoch'])}/{epochs}", f"loss {metrics['loss']:.3f}"]
        words += filter(None, [accuracies(metrics).removesuffix(", ")])
        words += [f"{name} {value:.4f}" for name, value in metrics.items() if name.endswith("/auc")]
        words.append(f"{metrics['samples_per_second']:.0f} samples/s")
        if metrics["data_wait_share"] > 0.05:
            words.append(f"{metrics['data_wait_share']:.0%} waiting for data")
        return ", ".join(words)

    def _embed(self, backbone: nn.Module, pair_set: PairSet) -> np.ndarray:
        """Embeddings float32 [M, D] of all images, each made by one rank."""
        images, rank, world = pair_set.images, distributed.rank(), distributed.world_size()
        batches = -(-len(images) // self.batch_size)
        ends = [min(batches * r // world * self.batch_size, len(images)) for r in range(world + 1)]
        own = embed_images(
            backbone,
            images[ends[rank] : ends[rank + 1]],
            flip=self.flips.get(pair_set.name, "none"),
            batch_size=self.batch_size,
            precision=self.precision,
        )
        if world == 1:
            return own
        counts = np.diff(ends)
        device = next(backbone.parameters()).device
        padded = torch.zeros(int(counts.max()), own.shape[1], device=device)
        padded[: len(own)] = torch.from_numpy(own)
        gathered = distributed.gather(padded).cpu().numpy().reshape(world, len(padded), -1)
        return np.concatenate([part[:count] for part, count in zip(gathered, counts, strict=True)])


def accuracies(metrics: Mapping[str, float]) -> str:
    """Training accuracy, Acc@1 and Acc@5, and XNorm as a log line has them, with a comma at the end."""
    shown = ""
    for name in ("contrast_accuracy", "train_accuracy"):
        if name in metrics:
            shown += f"{name.replace('_', ' ')} {metrics[name]:.3f} (top 5 {metrics[f'{name}_top5']:.3f}), "
    return shown + (f"xnorm {metrics['xnorm']:.2f}, " if "xnorm" in metrics else "")


@contextlib.contextmanager
def _buffers_of_rank_0(backbone: nn.Module) -> Iterator[None]:
    """Each rank has running statistics of its own; here all have those of rank 0."""
    own = [(buffer, buffer.clone()) for buffer in backbone.buffers()] if distributed.world_size() > 1 else []
    for buffer, _ in own:
        buffer.copy_(distributed.broadcast(buffer))
    try:
        yield
    finally:
        for buffer, value in own:
            buffer.copy_(value)


def _open(spec: SetSpec, settings: Settings) -> PairSet:
    options = {"pairs": settings.evaluate.pairs, "seed": settings.seed, **spec.options}
    options.pop("flip", None)
    return load_pair_set(spec.path, **options, name=spec.name)
