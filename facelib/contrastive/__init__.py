"""Contrastive learning without labels: momentum contrast (MoCo)."""

from facelib.contrastive.moco import MoCo, contrast_accuracy

__all__ = ["MoCo", "contrast_accuracy"]
