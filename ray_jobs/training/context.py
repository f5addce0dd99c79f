"""Where one rank of a training runs: in a worker group of Ray Train, or alone in the calling process.

The trainer knows its context by rank, world size, device and `report` only.
"""

import datetime
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import ray.train
import ray.train.torch
import torch

from facelib.utils.devices import resolve_device
from ray_jobs.training.checkpoint import STATE_NAME, keep_checkpoint, store_state, write_state


class TrainContext(Protocol):
    """What a trainer needs of the process it runs in."""

    rank: int
    world: int
    local_rank: int
    local_world: int
    device: torch.device

    @property
    def storing(self) -> bool:
        """Whether a checkpoint is still being stored."""
        ...

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None = None) -> None:
        """Report metrics, and on rank 0 a state that becomes a checkpoint. All ranks call it together.

        Steps may go on while the state is stored: nothing may change it. The report reaches callbacks after that.
        """
        ...


class RayTrainContext:
    """A rank of Ray Train's worker group. One thread stores its checkpoints, in order; Ray ends a worker after it."""

    def __init__(self) -> None:
        context = ray.train.get_context()
        self.rank, self.world = context.get_world_rank(), context.get_world_size()
        self.local_rank, self.local_world = context.get_local_rank(), context.get_local_world_size()
        self._storage = context.get_storage()
        self._stored = threading.Event()
        self._stored.set()
        self.device = ray.train.torch.get_device()

    @property
    def storing(self) -> bool:
        """Whether a checkpoint is still being stored."""
        return not self._stored.is_set()

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None = None) -> None:
        """A barrier of all ranks. Reports without a state are asynchronous too: they wait for those before them."""
        asynchronous = ray.train.CheckpointUploadMode.ASYNC
        if state is None:
            ray.train.report(metrics, checkpoint_upload_mode=asynchronous)
            return
        fs, folder = self._storage.storage_filesystem, self._storage.experiment_fs_path
        self._stored.clear()

        def store(_: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
            try:
                store_state(fs, f"{folder}/{name}", state)
            finally:
                self._stored.set()
            return ray.train.Checkpoint(f"{folder}/{name}", fs)

        ray.train.report(
            metrics,
            checkpoint=ray.train.Checkpoint(folder, fs),  # in place of the local copy that `store` does not need
            checkpoint_upload_mode=asynchronous,
            checkpoint_upload_fn=store,
            delete_local_checkpoint_after_upload=False,
        )


class LocalContext:
    """The calling process alone: starting a worker group would take longer than a tiny training.

    Args:
        storage: folder or URI for checkpoints, laid out as Ray Train does.
        keep: checkpoints kept.
        callbacks: called after every report, as Ray Train's callbacks are (`after_report`).
        use_gpu: train on the GPU that the process reserved; without a share it may see those of others.
    """

    def __init__(self, storage: str, keep: int, callbacks: Sequence[Any], use_gpu: bool = False) -> None:
        self.rank, self.world, self.local_rank, self.local_world = 0, 1, 0, 1
        self.device = resolve_device("cuda" if use_gpu else "cpu")
        self.storage, self.keep, self.callbacks = storage, keep, callbacks

    @property
    def storing(self) -> bool:
        """Never: a trial of a sweep may be stopped at its report, and continues from the checkpoint of it."""
        return False

    def report(self, metrics: dict[str, Any], state: dict[str, Any] | None = None) -> None:
        """Keep the checkpoint, then call the callbacks."""
        if state is not None:
            name = f"checkpoint_{datetime.datetime.now():%Y-%m-%d_%H-%M-%S.%f}"
            with tempfile.TemporaryDirectory() as folder:
                write_state(Path(folder) / STATE_NAME, state)
                keep_checkpoint(self.storage, name, Path(folder), self.keep)
        for callback in self.callbacks:
            callback.after_report(None, [metrics], None)
