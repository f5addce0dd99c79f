"""Losses on embeddings and identity labels: margin heads, unified negatives (UNPG), pair terms."""

from facelib.losses.margins import ArcFace, CosFace, MagFace, MarginHead, MarginOutput
from facelib.losses.pairs import contrastive_loss, triplet_loss
from facelib.losses.sharded import ShardedMarginLoss
from facelib.losses.unified_negatives import MarginSoftmax, UnifiedNegativeLoss, filter_negatives

__all__ = [
    "ArcFace",
    "CosFace",
    "MagFace",
    "MarginHead",
    "MarginOutput",
    "MarginSoftmax",
    "ShardedMarginLoss",
    "UnifiedNegativeLoss",
    "contrastive_loss",
    "filter_negatives",
    "triplet_loss",
]
