"""Augmentation of training images: in the loader's reading tasks, or on the trainer's GPU.

On CPUs it belongs to the reading tasks, which run on any CPU of the cluster: in the trainer's process its many small
operations would compete with the training step for the interpreter lock. A GPU takes what dozens of CPUs would do.
"""

from dataclasses import dataclass

import torch

from facelib.augmentation import FaceAugmentation, TorchvisionAugmentation
from facelib.config import AugmentSettings
from facelib.config.fields import SettingsError


@dataclass(frozen=True)
class AugmentationSpec:
    """Settings of the augmentation, and the length of the training for the ramp of its strength.

    Args:
        total_steps: steps of the whole training.
    """

    settings: AugmentSettings
    total_steps: int

    def build(self) -> FaceAugmentation | TorchvisionAugmentation:
        """The operation, for one reading task.

        Raises:
            ValueError, TypeError: an unknown option or operation, or one that the policy has no use for.
        """
        cfg = self.settings
        if cfg.policy == "randaugment":
            return FaceAugmentation(
                flip=cfg.flip, num_ops=cfg.num_ops, magnitude=cfg.magnitude, operations=cfg.operations, **cfg.options
            )
        if cfg.options or cfg.operations:
            raise ValueError(f"policy {cfg.policy} has no options and operations; they are of policy randaugment")
        return TorchvisionAugmentation(cfg.policy, cfg.flip, cfg.num_ops, cfg.magnitude)

    def strength(self, step: int) -> float:
        """Strength at a step: constant, or a linear ramp over the training."""
        cfg = self.settings
        start = cfg.strength if cfg.strength_start is None else cfg.strength_start
        return start + (cfg.strength - start) * step / self.total_steps


def augments_on_device(augment: AugmentSettings, device: torch.device) -> bool:
    """Whether a trainer on `device` decodes and augments there, and the loader leaves images as they are stored.

    Raises:
        SettingsError: a GPU is requested, also by nvJPEG, and the trainer has none, or the policy works on CPUs.
    """
    if augment.device == "cuda" and augment.policy != "randaugment":
        raise SettingsError(f"augment.device: cuda, but augment.policy={augment.policy} works on CPUs; set it to auto")
    if augment.device == "cuda" and device.type != "cuda":
        raise SettingsError("augment.device: cuda, but the trainer has no GPU: set train.use_gpu=true, or auto")
    on_device = device.type == "cuda" and augment.device != "cpu" and augment.policy == "randaugment"
    if augment.decoder == "nvjpeg" and not on_device:
        raise SettingsError("augment.decoder: nvjpeg, but images are decoded and augmented on CPUs; set it to cpu")
    return on_device
