"""Validation of a training: held-out synthetic pairs, which may select the model, and real evaluation sets.

The ranks share the work: each embeds its part of a set's images, in the batches in which one rank would embed them all,
with the BatchNorm statistics of rank 0, whose model is kept. Rank 0 measures.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from facelib.config import Settings
from facelib.data import ImageSpec
from facelib.embedding import NonFiniteEmbeddingError, embed_images
from facelib.evaluation import EvaluationOptions, roc_auc
from facelib.evaluation.protocols import EncodedImages, FaceImages, open_set, parse_spec
from facelib.sources.pair_sets import load_pair_set
from facelib.utils import distributed
from facelib.utils.arrays import l2_normalize
from facelib.utils.flip import FlipRule, join_flipped
from ray_jobs.embedding.rules import evaluation_options, set_defaults
from ray_jobs.errors import JobError

DEFAULT_METRICS = ("accuracy", "tar_at_far_0.001", "rank_1")  # The first that a set has selects the model.


@dataclass(frozen=True)
class ValidationResult:
    """Metrics by name, and the one that selects the best model."""

    metrics: dict[str, float]
    selected: float


@dataclass(frozen=True)
class ValidationSet:
    """Faces, and what embeddings [N, D] of them say: metrics by name."""

    name: str
    faces: FaceImages
    flip: FlipRule
    measure: Callable[[np.ndarray], dict[str, float]]


class Validator:
    """Evaluates a backbone on its validation sets.

    Args:
        image_spec: of the training faces; a set with another one is refused.
    """

    def __init__(self, settings: Settings, image_spec: ImageSpec) -> None:
        self.train, self.batch_size = settings.train, settings.evaluate.batch_size
        metric = self.train.selection_metric
        self.choices = DEFAULT_METRICS if metric == "auto" else (as_reported(metric),)
        options = with_metrics(dataclasses.replace(evaluation_options(settings), bootstrap=0), self.choices)
        self.heldout: ValidationSet | None = None
        if settings.data.heldout and self.train.selection == "heldout":
            uri = settings.path(settings.data.heldout)
            pairs = load_pair_set(uri, settings.evaluate.pairs, settings.seed, name="heldout")
            image_spec.require(pairs.image_spec, "the training dataset", "set heldout")

            def auc(embeddings: np.ndarray) -> dict[str, float]:
                unit = l2_normalize(embeddings)
                return {"auc": roc_auc((unit[pairs.first] * unit[pairs.second]).sum(1), pairs.issame)}

            self.heldout = ValidationSet("heldout", EncodedImages(pairs.images, "heldout"), "none", auc)
        self.sets = [self._open(text, settings, image_spec, options) for text in self.train.sets]

    def evaluate(self, backbone: nn.Module) -> ValidationResult:
        """ROC-AUC, accuracy where a protocol has one, and XNorm on every set, and the metric that selects the model.

        All ranks call it together, and all have the result.
        """
        metrics: dict[str, float] = {}
        with _buffers_of_rank_0(backbone):
            for s in [*([self.heldout] if self.heldout else []), *self.sets]:
                embeddings, xnorm = self._embed(backbone, s)
                found = s.measure(embeddings) if distributed.rank() == 0 else {}
                metrics |= {f"{s.name}/{name}": value for name, value in found.items()}
                if s is not self.heldout:
                    metrics[f"{s.name}/xnorm"] = xnorm
        metrics = distributed.broadcast_object(metrics)
        if self.train.selection == "sets":
            return ValidationResult(metrics, self._selected(metrics))
        return ValidationResult(metrics, metrics["heldout/auc"] if self.heldout else 0.0)

    def _open(self, text: str, settings: Settings, image_spec: ImageSpec, options: EvaluationOptions) -> ValidationSet:
        spec = parse_spec(text)
        defaults = set_defaults(settings, spec)
        if self.train.flip != "auto":
            defaults["flip"] = self.train.flip
        opened = open_set(text, defaults)
        image_spec.require(opened.image_spec, "the training dataset", f"set {spec.name}")

        def measure(embeddings: np.ndarray) -> dict[str, float]:
            found = opened.measure(embeddings, options).report.metrics()
            shown = {"auc", "accuracy", *[name for name in self.choices if name in found][:1]} & found.keys()
            return {name: found[name] for name in found if name in shown or not shown}

        return ValidationSet(spec.name, opened.faces, opened.flip_rule, measure)

    def _selected(self, metrics: Mapping[str, float]) -> float:
        """Mean over the sets that select, each by `train.selection_metric` or by the first metric that it has."""
        values = []
        for name in self.train.selection_sets or [s.name for s in self.sets]:
            value = next((metrics[f"{name}/{c}"] for c in self.choices if f"{name}/{c}" in metrics), None)
            if value is None:
                known = ", ".join(key.removeprefix(f"{name}/") for key in metrics if key.startswith(f"{name}/"))
                raise JobError(f"train.selection_metric: set {name} has no {' or '.join(self.choices)}; it has {known}")
            values.append(value)
        return float(np.mean(values))

    def line(self, metrics: dict[str, float], epochs: int) -> str:
        """The console line of an epoch."""
        words = [f"epoch {int(metrics['epoch'])}/{epochs}", f"loss {metrics['loss']:.3f}"]
        words += filter(None, [accuracies(metrics).removesuffix(", ")])
        words += [f"{name} {value:.4f}" for name, value in metrics.items() if _is_shown(name)]
        words.append(f"{metrics['samples_per_second']:.0f} samples/s")
        if metrics["data_wait_share"] > 0.05:
            words.append(f"{metrics['data_wait_share']:.0%} waiting for data")
        return ", ".join(words)

    def _embed(self, backbone: nn.Module, s: ValidationSet) -> tuple[np.ndarray, float]:
        """Embeddings float32 [N, D] of all faces, each made by one rank; their mean length before joining."""
        rank, world = distributed.rank(), distributed.world_size()
        batches = -(-len(s.faces) // self.batch_size)
        ends = [min(batches * r // world * self.batch_size, len(s.faces)) for r in range(world + 1)]
        # Plain and flipped side by side: the lengths of both are told.
        rule: FlipRule = "none" if s.flip == "none" else "concat"
        own = [
            self._embed_batch(backbone, s.faces.part(begin, min(begin + self.batch_size, ends[rank + 1])), rule)
            for begin in range(ends[rank], ends[rank + 1], self.batch_size)
        ]
        sides = np.concatenate(own or [self._embed_batch(backbone, s.faces.part(0, 0), rule)])
        if world > 1:
            counts = np.diff(ends)
            device = next(backbone.parameters()).device
            padded = torch.zeros(int(counts.max()), sides.shape[1], device=device)
            padded[: len(sides)] = torch.from_numpy(sides)
            gathered = distributed.gather(padded).cpu().numpy().reshape(world, len(padded), -1)
            sides = np.concatenate([part[:count] for part, count in zip(gathered, counts, strict=True)])
        if s.flip == "none":
            return sides, _mean_length(sides)
        plain, flipped = np.split(sides, 2, axis=1)
        return join_flipped(plain, flipped, s.flip), (_mean_length(plain) + _mean_length(flipped)) / 2

    def _embed_batch(self, backbone: nn.Module, faces: FaceImages, rule: FlipRule) -> np.ndarray:
        try:
            return embed_images(
                backbone, faces.decode(), flip=rule, batch_size=self.batch_size, precision=self.train.precision
            )
        except NonFiniteEmbeddingError as error:
            raise JobError(f"validation set {faces.name_of(error.image)}: {error.reason}") from None


def as_reported(metric: str) -> str:
    """The name of a metric in reports: tar_at_far_1e-3 is tar_at_far_0.001."""
    name, _, number = metric.rpartition("_")
    return f"{name}_{float(number):g}" if name else metric


def with_metrics(options: EvaluationOptions, names: Sequence[str]) -> EvaluationOptions:
    """The options, with the rates and ranks that metrics such as `tar_at_far_0.001` are at."""
    added: dict[str, Any] = {}
    for field, prefix in (("fars", "tar_at_far_"), ("fpirs", "tpir_at_fpir_"), ("ranks", "rank_")):
        kind = int if field == "ranks" else float
        values = {kind(name.removeprefix(prefix)) for name in names if name.startswith(prefix)}
        added[field] = tuple(sorted({*getattr(options, field), *values}))
    return dataclasses.replace(options, **added)


def _mean_length(embeddings: np.ndarray) -> float:
    return float(np.linalg.norm(embeddings, axis=1).mean(dtype=np.float64))


def _is_shown(name: str) -> bool:
    return name.endswith("/auc") or "/tar_at_far_" in name or "/rank_" in name


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
