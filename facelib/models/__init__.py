"""Backbones: images to embeddings, and the files they live in."""

from facelib.models.checkpoints import (
    BackboneCheckpoint,
    CheckpointError,
    PublishedTraining,
    UnsafeCheckpointError,
    backbone_of,
    load_backbone,
    load_checkpoint_image_spec,
    network_entry,
    read_checkpoint,
    read_published_training,
    save_backbone,
)
from facelib.models.iresnet import IResNet
from facelib.models.mobilefacenet import MobileFaceNet
from facelib.models.pixels import NORMALIZATIONS, take_symmetric_pixels
from facelib.models.registry import backbone_names, build_backbone, register_backbone, shapes_only
from facelib.models.whitening import WithinClassWhitening

__all__ = [
    "NORMALIZATIONS",
    "BackboneCheckpoint",
    "CheckpointError",
    "IResNet",
    "MobileFaceNet",
    "PublishedTraining",
    "UnsafeCheckpointError",
    "WithinClassWhitening",
    "backbone_names",
    "backbone_of",
    "build_backbone",
    "load_backbone",
    "load_checkpoint_image_spec",
    "network_entry",
    "read_checkpoint",
    "read_published_training",
    "register_backbone",
    "save_backbone",
    "shapes_only",
    "take_symmetric_pixels",
]
