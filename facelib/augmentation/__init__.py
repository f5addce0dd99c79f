"""Batched augmentation of faces, on uint8 tensors."""

from facelib.augmentation.face import FaceAugmentation
from facelib.augmentation.policies import TorchvisionAugmentation
from facelib.augmentation.preprocessing import to_network_input
from facelib.augmentation.randaugment import RandAugment

__all__ = ["FaceAugmentation", "RandAugment", "TorchvisionAugmentation", "to_network_input"]
