"""A margin head split over ranks by class, for class counts whose weights or logits do not fit one device.

Rank r holds the weights of classes r·C/W to (r+1)·C/W. Embeddings and labels of all ranks come to every rank; each
compares all rows with its own classes, and only two numbers per row, log-sum and positive logit, cross back. Loss and
gradients equal those of the unsharded head with `UnifiedNegativeLoss` on the global batch. With sample_rate < 1 each
rank compares with the batch's true classes and a random share of the others (Partial FC, An et al., CVPR 2022, arXiv
2203.15565).

The module stays OUTSIDE DistributedDataParallel (every rank owns other classes), the backbone inside; the optimizer
takes both. Every rank returns the same loss; gradients are scaled so that, after DDP has averaged the backbone's, all
are those of that loss.

    backbone = DistributedDataParallel(backbone)
    loss = ShardedMarginLoss(ArcFace, embedding_size=512, num_classes=1_000_000)
    loss(backbone(images), labels).backward()

After a forward pass `accuracy` has the share of the global batch's rows whose class came first, `accuracy_top5` of
those whose class was among the first five.

Checkpoints hold all classes in order and do not depend on the number of ranks: `gather_classes`, `own_classes`.

Shapes: N batch of one rank, B batch of all ranks, W ranks, C classes, D embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from facelib.losses.margins import (
    MarginHead,
    MarginOutput,
    at_least_float32,
    check_batch,
    initialize_classes,
    top_share,
)
from facelib.losses.unified_negatives import UnifiedNegativeLoss, negative_logsumexp
from facelib.utils import distributed
from facelib.utils.random_streams import Purpose, torch_seed
from facelib.utils.step_counter import StepCounter

INITIAL_BLOCK = 4096  # classes per generator: a rank makes its own first weights without making everybody's


class ShardedMarginLoss(StepCounter):
    """Margin softmax over classes that live on several ranks, with unified negatives.

    Args:
        head: class of the head: ArcFace, CosFace or MagFace.
        embedding_size: D.
        num_classes: C of the whole data set.
        whisker: as in `UnifiedNegativeLoss`; None: no pair negatives.
        sample_rate: share of its classes a rank compares with, in 0..1, but at least as many as the global batch has
            rows: the batch's true classes are always among them. Classes left out get gradient zero, but the
            optimizer's momentum and weight decay still move them.
        seed: of the first weights and of the sampling; the same on every rank.
        settings: the head's own, as scale and margin.

    Raises:
        ValueError: a setting is out of range, or there are fewer classes than ranks.
    """

    accuracy: Tensor
    accuracy_top5: Tensor

    def __init__(
        self,
        head: type[MarginHead],
        embedding_size: int,
        num_classes: int,
        whisker: float | None = 1.5,
        sample_rate: float = 1.0,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__()
        ranks, rank = distributed.world_size(), distributed.rank()
        if num_classes < ranks:
            raise ValueError(f"num_classes={num_classes} cannot be split over {ranks} ranks: use the unsharded head")
        if not 0 < sample_rate <= 1:
            raise ValueError(f"sample_rate={sample_rate} must be above 0 and at most 1")
        self.num_classes = num_classes
        self.embedding_size = embedding_size
        self.whisker = UnifiedNegativeLoss(whisker).whisker
        self.sample_rate = sample_rate
        self.seed = seed
        self.first, self.end = _bounds(rank, ranks, num_classes)
        self.head = head(embedding_size, self.end - self.first, **settings)
        shape, weight_init = (num_classes, embedding_size), self.head.weight_init
        self.head.weight.data.copy_(_first_weights(self.first, self.end, shape, seed, weight_init))
        for name in ("accuracy", "accuracy_top5"):
            self.register_buffer(name, torch.zeros(()), persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of the global batch, the same on every rank.

        Args:
            embeddings: [N, D] of this rank, any length.
            labels: [N] in −1..C−1 of the whole data set; rows of −1 are left out.

        Raises:
            ValueError: shapes do not fit, or a label on the CPU is outside −1..C−1.
        """
        check_batch(embeddings, labels, (self.num_classes, self.embedding_size))
        all_embeddings = distributed.gather_with_gradient(at_least_float32(embeddings))  # [B, D]
        all_labels = distributed.gather(labels)
        labeled = all_labels >= 0
        with torch.autocast(embeddings.device.type, enabled=False):
            mine = labeled & (all_labels >= self.first) & (all_labels < self.end)
            weight, local_labels = self._sample(torch.where(mine, all_labels - self.first, -1))
            # What follows differs by rank and its gradients add up to one loss's; DDP then divides by the ranks.
            output = self.head.compare(_scale_gradient(all_embeddings, distributed.world_size()), local_labels, weight)
            logits = output.scale * output.cosines
            positives = torch.where(mine, logits.gather(1, local_labels.clamp(min=0)[:, None])[:, 0], 0.0)
            rivals = _rivals_over_ranks(output, local_labels)
            self.accuracy, self.accuracy_top5 = (top_share(rivals, labeled, top) for top in (1, 5))
            normalizer = _logsumexp_over_ranks(torch.logsumexp(logits, dim=1))
            positives = _sum_over_ranks(positives)
            penalty = _sum_over_ranks(output.penalty * mine.sum()) if isinstance(output.penalty, Tensor) else 0.0
            if self.whisker is not None:
                # The same on every rank and with the whole gradient on each, so not scaled: it counts once.
                pairs = negative_logsumexp(all_embeddings, all_labels, self.whisker, output.scale)
                normalizer = torch.logaddexp(normalizer, pairs)
            rows = torch.where(labeled, normalizer - positives, 0.0)
            return (rows.sum() + penalty) / labeled.sum().clamp(min=1)

    def gather_classes(self, tensor: Tensor) -> Tensor | None:
        """[own classes, ...] of every rank -> [C, ...] on the CPU of rank 0, None elsewhere; all ranks must call it.

        For the weight and for what an optimizer keeps beside it (momentum).
        """
        ranks = distributed.world_size()
        parts = []
        for source in range(ranks):  # one rank's classes at a time, so that no device ever holds all
            first, end = _bounds(source, ranks, self.num_classes)
            own = source == distributed.rank()
            part = tensor.detach() if own else tensor.new_empty((end - first, *tensor.shape[1:]))
            part = distributed.broadcast(part, source)
            if distributed.rank() == 0:
                parts.append(part.cpu())
        return torch.cat(parts) if parts else None

    def own_classes(self, tensor: Tensor) -> Tensor:
        """[C, ...] -> this rank's classes of it, on the weight's device."""
        return tensor[self.first : self.end].to(self.head.weight.device)

    def _sample(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [B] among own classes (−1: not mine) -> the weights to compare with and the labels among those."""
        weight = self.head.weight
        if self.sample_rate == 1 or not self.training:
            return weight, labels
        seed = torch_seed(Purpose.CLASS_SAMPLING, self.seed, self.steps, distributed.rank())
        generator = torch.Generator(weight.device).manual_seed(seed)
        priority = torch.rand(len(weight), generator=generator, device=weight.device)
        true_class = torch.where(labels >= 0, 2.0, 0.0)
        priority.scatter_reduce_(0, labels.clamp(min=0), true_class, "amax")
        # The number of true classes is known to the device alone: the bound is one that the host knows.
        count = min(len(weight), max(round(self.sample_rate * len(weight)), len(labels)))
        chosen = priority.topk(count).indices.sort().values
        self.steps += 1
        return weight[chosen], torch.where(labels >= 0, torch.searchsorted(chosen, labels), -1)


def _bounds(rank: int, ranks: int, num_classes: int) -> tuple[int, int]:
    return rank * num_classes // ranks, (rank + 1) * num_classes // ranks


def _first_weights(first: int, end: int, shape: tuple[int, int], seed: int, weight_init: str = "normal") -> Tensor:
    """Rows first..end of class weights [C, D] that depend on seed and class alone, not on the number of ranks."""
    num_classes, embedding_size = shape
    blocks = range(first // INITIAL_BLOCK, (end - 1) // INITIAL_BLOCK + 1)
    rows = torch.empty(len(blocks), INITIAL_BLOCK, embedding_size)
    for part, block in zip(rows, blocks):
        generator = torch.Generator().manual_seed(torch_seed(Purpose.SHARDED_WEIGHTS, seed, block))
        initialize_classes(part, weight_init, num_classes, generator)
    offset = first - blocks.start * INITIAL_BLOCK
    return rows.flatten(0, 1)[offset : offset + end - first]


@torch.no_grad()
def _rivals_over_ranks(output: MarginOutput, labels: Tensor) -> Tensor:
    """Number of other classes, [B], on any rank, whose cosine is above that of a row's own; margins left out."""
    mine = labels >= 0
    assert output.target_cosines is not None
    target = distributed.all_reduce(torch.where(mine, output.target_cosines, 0.0))
    # What is not a number is not at or below the target, so a row with one is wrong.
    above = (~(output.cosines <= target[:, None])).sum(dim=1)
    # A margin may also raise a cosine: the own column never counts as a rival.
    own = output.cosines.gather(1, labels.clamp(min=0)[:, None])[:, 0] > target
    return distributed.all_reduce(above - (own & mine).long())


def _logsumexp_over_ranks(own: Tensor) -> Tensor:
    """logsumexp over ranks of each rank's values [B]; the gradient is the one with respect to the own values."""
    values = distributed.gather(own[None]).clone()
    values[distributed.rank()] = -torch.inf
    return torch.logaddexp(own, torch.logsumexp(values, dim=0))


def _sum_over_ranks(own: Tensor) -> Tensor:
    """Sum over ranks; the gradient is the one with respect to the own values."""
    return distributed.all_reduce(own) + (own - own.detach())


def _scale_gradient(tensor: Tensor, factor: float) -> Tensor:
    """The tensor as it is, its gradient times factor."""
    return tensor if factor == 1 else _ScaleGradient.apply(tensor, factor)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradients[0], None
