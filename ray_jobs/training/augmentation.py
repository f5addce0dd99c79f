"""Augmentation of training images as the loader applies it: in its reading tasks, not in the trainer.

In the trainer's process its many small operations would compete with the training step for the interpreter lock; in a
reading task they run on any CPU of the cluster.
"""

from dataclasses import dataclass

from facelib.augmentation import FaceAugmentation
from facelib.config import AugmentSettings


@dataclass(frozen=True)
class AugmentationSpec:
    """Settings of the augmentation, and the length of the training for the ramp of its strength.

    Args:
        total_steps: steps of the whole training.
    """

    settings: AugmentSettings
    total_steps: int

    def build(self) -> FaceAugmentation:
        """The operation, for one reading task."""
        cfg = self.settings
        return FaceAugmentation(flip=cfg.flip, num_ops=cfg.num_ops, magnitude=cfg.magnitude, **cfg.options)

    def strength(self, step: int) -> float:
        """Strength at a step: constant, or a linear ramp over the training."""
        cfg = self.settings
        start = cfg.strength if cfg.strength_start is None else cfg.strength_start
        return start + (cfg.strength - start) * step / self.total_steps
