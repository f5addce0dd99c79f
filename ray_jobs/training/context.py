"""Where one rank of a training runs: in a worker group of Ray Train, or alone in the calling process.

The trainer knows its context by rank, world size, device and `report` only.
"""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ray.train
import ray.train.torch
import torch

from facelib.utils.devices import resolve_device
from ray_jobs.training.checkpoint import keep_checkpoint


class TrainContext(Protocol):
    """What a trainer needs of the process it runs in."""

    rank: int
    world: int
    local_world: int
    device: torch.device

    def report(self, metrics: dict[str, Any], folder: str | Path | None = None) -> None:
        """Report metrics, and on rank 0 a folder that becomes a checkpoint. All ranks call it together."""
        ...


class RayTrainContext:
    """A rank of Ray Train's worker group."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.local_world = context.get_local_world_size()
        self.device = ray.train.torch.get_device()

    def report(self, metrics: dict[str, Any], folder: str | Path | None = None) -> None:
        """A barrier of all ranks."""
        checkpoint = None if folder is None else ray.train.Checkpoint.from_directory(folder)
        ray.train.report(metrics, checkpoint=checkpoint)


class LocalContext:
    """The calling process alone: starting a worker group would take longer than a tiny training.

    Args:
        storage: folder or URI for checkpoints, laid out as Ray Train does.
        keep: checkpoints kept.
        callbacks: called after every report, as Ray Train's callbacks are (`after_report`).
        use_gpu: train on the GPU that the process reserved; without a share it may see those of others.
    """

    def __init__(self, storage: str, keep: int, callbacks: Sequence[Any], use_gpu: bool = False) -> None:
        self.rank, self.world, self.local_world = 0, 1, 1
        self.device = resolve_device("cuda" if use_gpu else "cpu")
        self.storage, self.keep, self.callbacks = storage, keep, callbacks

    def report(self, metrics: dict[str, Any], folder: str | Path | None = None) -> None:
        """Keep the checkpoint, then call the listeners."""
        if folder is not None:
            name = f"checkpoint_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
            keep_checkpoint(self.storage, name, Path(folder), self.keep)
        for callback in self.callbacks:
            callback.after_report(None, [metrics], None)
