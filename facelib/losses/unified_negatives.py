"""Unified negative pairs (UNPG, arXiv 2203.11593): softmax over class weights and the batch's own negative pairs.

    loss_i = −log e^{s·p_i} / ( e^{s·p_i} + Σ_{j≠y_i} e^{s·cos θ_ij} + Σ_{k∈S'} e^{s·n_k} )

p_i is the true class's cosine with margin, s the scale, n_k the cosine of two embeddings of different identities in the
batch; S' leaves out outliers by the box-and-whisker rule. Every row sees the same S', so with L = logsumexp_k(s·n_k)

    loss_i = −s·p_i + logaddexp( logsumexp_j(s·cosines_ij), L )

is the same number and gradient in O(N² + N·C) memory, where the concatenation takes O(N·P).

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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from facelib.losses.margins import MarginHead, MarginOutput, at_least_float32
from facelib.utils import distributed


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
                negatives = pair_negatives(everybody, all_labels, self.whisker)
                normalizer = add_negatives(normalizer, negatives, output.scale)
            labeled = labels >= 0
            rows = torch.where(labeled, normalizer - positives, 0.0)
            # Ranks may differ in rows with a label: weigh by rows, so that the mean over ranks is the global mean.
            ranks = len(all_labels) / len(labels)
            return (rows.sum() + output.penalty * labeled.sum()) * ranks / (all_labels >= 0).sum().clamp(min=1)


class MarginSoftmax(nn.Module):
    """A head and its `UnifiedNegativeLoss` as one module, used like `ShardedMarginLoss`.

    After a forward pass `accuracy` has the share of this rank's rows whose class came first.
    """

    accuracy: Tensor

    def __init__(self, head: MarginHead, whisker: float | None = 1.5) -> None:
        super().__init__()
        self.head = head
        self.loss = UnifiedNegativeLoss(whisker)
        self.register_buffer("accuracy", torch.zeros(()), persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings [N, D] and labels [N], −1 for none."""
        output = self.head(embeddings, labels)
        self.accuracy = output.accuracy(labels)
        return self.loss(output, embeddings, labels)


def pair_negatives(embeddings: Tensor, labels: Tensor, whisker: float) -> Tensor:
    """Kept cosines of the negative pairs among embeddings [B, D] (any length) with labels [B], −1 taking no part."""
    with torch.autocast(embeddings.device.type, enabled=False):
        return filter_negatives(_NegativePairs.apply(F.normalize(at_least_float32(embeddings)), labels), whisker)


def add_negatives(normalizer: Tensor, negatives: Tensor, scale: float) -> Tensor:
    """logsumexp [N] over each row's logits -> the same with cosines [P], possibly none, beside every row."""
    if len(negatives) == 0:
        return normalizer
    return torch.logaddexp(normalizer, torch.logsumexp(scale * negatives, dim=0))


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
    count = len(similarities)
    if count == 0:
        return similarities
    values = similarities.detach()
    first, third = (_smallest(values, int(share * count)) for share in (0.25, 0.75))
    reach = whisker * (third - first)
    return _Select.apply(similarities, (values >= first - reach) & (values <= third + reach))


class _NegativePairs(torch.autograd.Function):
    """Unit embeddings [B, D] and labels [B] -> cosines [P] of pairs a < b of different labels, none of them −1.

    Written out because autograd would keep the [B, B] matrix and spend two products on a gradient that one gives.
    """

    @staticmethod
    def forward(ctx: Any, unit: Tensor, labels: Tensor) -> Tensor:
        pairs = (labels[:, None] != labels[None, :]) & (labels >= 0)[:, None] & (labels >= 0)[None, :]
        pairs = pairs.triu(diagonal=1)
        ctx.save_for_backward(unit, pairs)
        return _select(unit @ unit.T, pairs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        unit, pairs = ctx.saved_tensors
        upper = unit.new_zeros(pairs.shape).masked_scatter_(pairs, gradients[0])
        both = upper.T.contiguous().add_(upper)
        return both @ unit, None


class _Select(torch.autograd.Function):
    """Values [...] and a mask of their shape -> the values [P] inside the mask."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, mask: Tensor) -> Tensor:
        ctx.save_for_backward(mask)
        return _select(values, mask)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradients[0].new_zeros(mask.shape).masked_scatter_(mask, gradients[0]), None


def _select(values: Tensor, mask: Tensor) -> Tensor:
    """values.masked_select(mask): on a CPU NumPy's is five times as fast on one thread, 15 to 25 times on two."""
    if values.device.type == "cpu" and values.dtype != torch.bfloat16:
        return torch.from_numpy(values.detach().numpy()[mask.numpy()])
    return values.masked_select(mask)


def _smallest(values: Tensor, index: int) -> Tensor:
    """sorted(values)[index] of values [P], by selection: NumPy's is 20 times as fast as kthvalue on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.partition(at_least_float32(values).numpy(), index)[index : index + 1])[0]
    return values.kthvalue(index + 1).values


def _check_whisker(whisker: float) -> None:
    if not (whisker >= 0 and math.isfinite(whisker)):
        raise ValueError(f"whisker={whisker} must be a number >= 0 (or None: no pair negatives)")
