"""Triplet and contrastive terms to add to a margin softmax, as UNPG's comparisons do.

They need the extra dependency: `pip install facelib[metric-learning]` (pytorch-metric-learning). Distances are
Euclidean between unit embeddings, 0..2; each rank takes the pairs of its own batch; rows labeled −1 take no part.

    loss = unpg(head(embeddings, labels), embeddings, labels) + triplet_loss(embeddings, labels)

Shapes: N batch, D embedding.
"""

from __future__ import annotations

from torch import Tensor

from facelib.losses.margins import at_least_float32


def triplet_loss(embeddings: Tensor, labels: Tensor, margin: float = 0.5) -> Tensor:
    """Mean of max(0, d(a, p) − d(a, n) + margin) over triplets, those at 0 left out.

    Of embeddings [N, D] and labels [N]; 0 if there are no triplets.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning.losses import TripletMarginLoss
    except ImportError as error:
        raise ImportError(_HINT) from error
    return TripletMarginLoss(margin=margin)(*_labeled(embeddings, labels))


def contrastive_loss(embeddings: Tensor, labels: Tensor, margin: float = 1.0) -> Tensor:
    """Mean distance of positive pairs plus mean of max(0, margin − distance) of negative pairs, those at 0 left out.

    Of embeddings [N, D] and labels [N]; 0 if there are no pairs.

    Raises:
        ImportError: pytorch-metric-learning is not installed.
    """
    try:
        from pytorch_metric_learning.losses import ContrastiveLoss
    except ImportError as error:
        raise ImportError(_HINT) from error
    return ContrastiveLoss(pos_margin=0.0, neg_margin=margin)(*_labeled(embeddings, labels))


_HINT = "pytorch-metric-learning is missing: pip install 'facelib[metric-learning]'"


def _labeled(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return at_least_float32(embeddings)[labels >= 0], labels[labels >= 0]
