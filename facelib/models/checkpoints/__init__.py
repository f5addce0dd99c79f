"""Backbone files: ours and those of other codebases, read without running anything they contain."""

from facelib.models.checkpoints.backbone_file import (
    backbone_of,
    load_backbone,
    load_checkpoint_image_spec,
    network_entry,
    read_checkpoint,
    save_backbone,
)
from facelib.models.checkpoints.checkpoint import BackboneCheckpoint, CheckpointError
from facelib.models.checkpoints.published_training import PublishedTraining, read_published_training
from facelib.models.checkpoints.torch_archive import UnsafeCheckpointError

__all__ = [
    "BackboneCheckpoint",
    "CheckpointError",
    "PublishedTraining",
    "UnsafeCheckpointError",
    "backbone_of",
    "load_backbone",
    "load_checkpoint_image_spec",
    "network_entry",
    "read_checkpoint",
    "read_published_training",
    "save_backbone",
]
