"""Unified negative pairs (UNPG, arXiv 2203.11593): softmax over class weights and the batch's own negative pairs.

    loss_i = −log e^{s·p_i} / ( e^{s·p_i} + Σ_{j≠y_i} e^{s·cos θ_ij} + Σ_{k∈S'} e^{s·n_k} )

p_i is the true class's cosine with margin, s the scale, n_k the cosine of two embeddings of different identities in the
batch; S' leaves out outliers by the box-and-whisker rule. Every row sees the same S', so with L = logsumexp_k(s·n_k)

    loss_i = −s·p_i + logaddexp( logsumexp_j(s·cosines_ij), L )

is the same number and gradient in O(N² + N·C) memory, where the concatenation takes O(N·P). All [B, B] cosines are
computed, and masked: no shape depends on the labels, and on a GPU the host never waits for a count or a quartile.

Across ranks the pairs are those of the global batch and S' is the same everywhere. Each rank returns its own rows'
share, scaled so that the MEAN over ranks is the loss of the global batch: what DistributedDataParallel's averaging
expects.

Shapes: N batch of one rank, B batch of all ranks, C classes, D embedding, P negative pairs of the global batch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from facelib.losses.margins import MarginHead, MarginOutput, at_least_float32, top_share
from facelib.utils import distributed
from facelib.utils.unit_vectors import unit_vectors


class UnifiedNegativeLoss(nn.Module):
    """Margin softmax with unified negatives.

    Args:
        whisker: outlier bound in interquartile ranges, see `filter_negatives`; None leaves out the pair negatives
            (plain margin softmax).
        gather: in a process group, take pairs and means over all ranks. False: each rank for itself.

    Raises:
        ValueError: whisker is negative.
    """

    def __init__(self, whisker: float | None = 1.5, gather: bool = True) -> None:
        super().__init__()
        if whisker is not None:
            _check_whisker(whisker)
        self.whisker = whisker
        self.gather = gather

    def forward(self, output: MarginOutput, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss, the mean over rows with a label plus the head's penalty.

        Args:
            output: of a margin head for the same rows.
            embeddings: [N, D] of any length; read only for the pair negatives.
            labels: [N]; rows of −1 count neither as rows nor in pairs.
        """
        all_labels = distributed.gather(labels) if self.gather else labels
        with torch.autocast(embeddings.device.type, enabled=False):
            logits = output.scale * output.cosines
            positives = logits.gather(1, labels.clamp(min=0)[:, None])[:, 0]
            normalizer = torch.logsumexp(logits, dim=1)
            if self.whisker is not None:
                everybody = at_least_float32(embeddings)
                if self.gather:
                    everybody = distributed.gather_with_gradient(everybody)
                pairs = negative_logsumexp(everybody, all_labels, self.whisker, output.scale)
                normalizer = torch.logaddexp(normalizer, pairs)
            labeled = labels >= 0
            rows = torch.where(labeled, normalizer - positives, 0.0)
            # Ranks may differ in rows with a label: weigh by rows, so that the mean over ranks is the global mean.
            ranks = len(all_labels) / len(labels)
            return (rows.sum() + output.penalty * labeled.sum()) * ranks / (all_labels >= 0).sum().clamp(min=1)


class MarginSoftmax(nn.Module):
    """A head and its `UnifiedNegativeLoss` as one module, used like `ShardedMarginLoss`.

    After a forward pass `accuracy` has the share of this rank's rows whose class came first, `accuracy_top5` of those
    whose class was among the first five.
    """

    accuracy: Tensor
    accuracy_top5: Tensor

    def __init__(self, head: MarginHead, whisker: float | None = 1.5) -> None:
        super().__init__()
        self.head = head
        self.loss = UnifiedNegativeLoss(whisker)
        for name in ("accuracy", "accuracy_top5"):
            self.register_buffer(name, torch.zeros(()), persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings [N, D] and labels [N], −1 for none."""
        output = self.head(embeddings, labels)
        rivals, labeled = output.rivals(labels), labels >= 0
        self.accuracy, self.accuracy_top5 = (top_share(rivals, labeled, top) for top in (1, 5))
        return self.loss(output, embeddings, labels)


def negative_logsumexp(embeddings: Tensor, labels: Tensor, whisker: float, scale: float) -> Tensor:
    """L: scalar, logsumexp of scale · cosine over the kept negative pairs; −inf, without gradient, if there are none.

    Args:
        embeddings: [B, D] of any length.
        labels: [B], −1 taking no part.
        whisker: see `filter_negatives`.
        scale: factor from cosine to logit.
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return _NegativeLogsumexp.apply(unit_vectors(at_least_float32(embeddings)), labels, whisker, scale)


def filter_negatives(similarities: Tensor, whisker: float) -> Tensor:
    """Similarities [P] inside the whiskers, order and gradient kept.

    With the similarities sorted, Q1 = S[int(P/4)], Q3 = S[int(3P/4)], reach = whisker·(Q3 − Q1); kept are
    Q1 − reach ≤ n ≤ Q3 + reach. The bounds carry no gradient. An empty input comes back empty.

    Raises:
        ValueError: whisker is negative or not a number, or similarities are not one-dimensional.
    """
    _check_whisker(whisker)
    if similarities.ndim != 1:
        raise ValueError(f"similarities of shape {list(similarities.shape)}, expected [P]")
    values = similarities.detach()
    return similarities[inside_whiskers(values, torch.ones_like(values, dtype=torch.bool), whisker)]


def inside_whiskers(values: Tensor, valid: Tensor, whisker: float) -> Tensor:
    """Which of the valid values lie inside the whiskers that `filter_negatives` draws: a mask of their shape."""
    first, third = _quartiles(values, valid)
    reach = whisker * (third - first)
    return valid & (values >= first - reach) & (values <= third + reach)


def _quartiles(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Q1 and Q3 of the valid values, scalars; of no values, anything."""
    if values.device.type != "cpu":
        return _quartiles_by_sort(values, valid)
    chosen = at_least_float32(values).numpy()[valid.numpy()]
    if len(chosen) == 0:
        return values.new_zeros(()), values.new_zeros(())
    indices = [len(chosen) // 4, 3 * len(chosen) // 4]
    first, third = torch.from_numpy(np.partition(chosen, indices)[indices])  # 20 times as fast as a sort
    return first, third


def _quartiles_by_sort(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """The same by one sort with all that is not valid at its end: no shape and no read depends on the labels."""
    ordered = torch.where(valid, values, math.inf).flatten().sort().values
    count = valid.sum()
    first, third = ordered.gather(0, torch.stack([count // 4, 3 * count // 4]).clamp(max=len(ordered) - 1))
    return first, third


class _NegativeLogsumexp(torch.autograd.Function):
    """Of unit embeddings [B, D] and labels [B]; pairs are a < b of different labels, none of them −1.

    Written out because autograd would keep several [B, B] matrices, spend two products on a gradient that one gives,
    and give nan where no pair is left.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, labels: Tensor, whisker: float, scale: float) -> Tensor:
        cosines = unit @ unit.T
        pairs = (labels[:, None] != labels[None, :]) & (labels >= 0)[:, None] & (labels >= 0)[None, :]
        kept = inside_whiskers(cosines, pairs.triu_(diagonal=1), whisker)
        # exp(scale · (cosine − largest)), 0 for the others; without any pair the largest would be −inf.
        weights = cosines.masked_fill_(~kept, -math.inf)
        largest = weights.amax().clamp(min=-2)
        weights.sub_(largest).mul_(scale).exp_()
        total = weights.sum()
        ctx.scale = scale
        ctx.save_for_backward(unit, weights, total)
        return scale * largest + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        unit, weights, total = ctx.saved_tensors
        both = weights.T.contiguous().add_(weights)
        return both @ unit * (gradients[0] * ctx.scale / torch.where(total > 0, total, 1.0)), None, None, None


def _check_whisker(whisker: float) -> None:
    if not (whisker >= 0 and math.isfinite(whisker)):
        raise ValueError(f"whisker={whisker} must be a number >= 0 (or None: no pair negatives)")
