"""Checkpoints of a training: which of them are intact, and from which one a training resumes.

Each is at `<storage>/checkpoint_<time>/state.pt`. Ray Train deletes old ones and trusts its own snapshot file. Here
every state is verified before it is used, so that a damaged one costs the steps since the previous checkpoint and not
the training.
"""

import contextlib
import errno
import hashlib
import json
import logging
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from torch.utils._pytree import tree_map

from facelib.data import Folder
from facelib.data.storage import atomic_file, local_copy

logger = logging.getLogger(__name__)

STATE_NAME = "state.pt"
BOOKKEEPING_NAME = "checkpoint_manager_snapshot.json"  # Ray Train's


def newest_checkpoint(storage: str) -> str | None:
    """Name of the newest intact checkpoint below `storage`, None if there is none; warns of damaged ones."""
    folder = Folder(storage)
    names = _directories(folder)
    for name in sorted(names, reverse=True):
        damage = _damage(folder, name)
        if damage is None:
            return name
        logger.warning("checkpoint %s/%s is damaged (%s); trying the previous one", folder.uri, name, damage)
    if names:
        logger.warning("no checkpoint in %s is intact; the training starts from the beginning", folder.uri)
    return None


def read_state(storage: str, name: str, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The state in checkpoint `name` below `storage`."""
    with local_copy(f"{storage}/{name}/{STATE_NAME}") as path:
        return torch.load(path, map_location=device, weights_only=True)


def read_state_once_a_node(
    storage: str, name: str, local_rank: int, barrier: Callable[[], None], training: str
) -> dict[str, Any]:
    """`read_state` on all ranks of a training together; those of one node share one copy of a remote state.

    Args:
        barrier: waits until all ranks have called it.
        training: folder of the training that reads, which may be another than that of the state.
    """
    if "://" not in storage:
        return read_state(storage, name)
    key = hashlib.sha256(f"{training} {storage}/{name}".encode()).hexdigest()[:16]
    shared = Path(tempfile.gettempdir()) / f"facelib-state-{key}.pt"
    source = f"{storage}/{name}/{STATE_NAME}"
    if local_rank == 0:
        with local_copy(source) as path, atomic_file(shared) as file, path.open("rb") as copy:
            shutil.copyfileobj(copy, file, 8 << 20)
    barrier()
    try:
        return torch.load(shared, map_location="cpu", weights_only=True)
    finally:
        barrier()
        if local_rank == 0:
            shared.unlink()


def snapshot(state: Any) -> Any:
    """A copy of a nested state in host memory, which the steps that follow do not change.

    Copies from a GPU run together, into pinned memory.
    """
    copy = tree_map(lambda leaf: _to_host(leaf) if isinstance(leaf, torch.Tensor) else leaf, state)
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copy


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "cuda":
        return tensor.detach().clone()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor.detach(), non_blocking=True)


def store_state(fs: pafs.FileSystem, directory: str, state: dict[str, Any]) -> None:
    """Write a state to a local file and copy that to `directory` of a file system.

    Raises:
        OSError: a disk is full, or another error of the file system.
    """
    with tempfile.TemporaryDirectory() as temporary:
        write_state(Path(temporary) / STATE_NAME, state)
        _store(fs, directory, Path(temporary))


def _store(fs: pafs.FileSystem, directory: str, source: Path) -> None:
    fs.create_dir(directory, recursive=True)
    target = f"{directory}/{STATE_NAME}"
    # An object store shows an object when it is complete, and copies no large one to another name.
    written = f"{directory}/.{STATE_NAME}.tmp" if isinstance(fs, pafs.LocalFileSystem) else target
    try:
        pafs.copy_files(
            str(source / STATE_NAME), written, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=fs
        )
        if written != target:
            fs.move(written, target)
    except OSError:
        with contextlib.suppress(OSError):
            fs.delete_file(written)
        raise


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state to a local file.

    Raises:
        OSError: the disk is full, or another error of the operating system.
    """
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch does not say why a write failed.
        free = shutil.disk_usage(path.parent).free
        code = errno.ENOSPC if free < 1 << 20 else errno.EIO
        raise OSError(code, f"cannot write a checkpoint, {free >> 20} MB are free ({error})", str(path)) from None


def keep_checkpoint(storage: str, name: str, source: Path, keep: int) -> None:
    """Store the state in `source` below `storage` as checkpoint `name`, and delete all but the `keep` newest."""
    folder = Folder(storage).create()
    _store(folder.fs, f"{folder.path}/{name}", source)
    for old in sorted(_directories(folder))[:-keep]:
        folder.fs.delete_dir(f"{folder.path}/{old}")


def discard_stale_bookkeeping(storage: str) -> None:
    """Remove Ray Train's snapshot file if it is truncated (full disk, crash) or names checkpoints that are gone.

    Ray Train would refuse to start; without the file it starts, and the training itself finds its newest checkpoint.
    """
    folder = Folder(storage)
    if not folder.exists(BOOKKEEPING_NAME):
        return
    try:
        notes = json.loads(folder.read(BOOKKEEPING_NAME))
        noted = [entry["checkpoint_dir_name"] for entry in notes["checkpoint_results"]]
        lost = sorted(set(noted) - set(_directories(folder)))
        problem = f"names {', '.join(lost)}, which is gone" if lost else ""
    except (ValueError, KeyError, TypeError) as error:
        problem = f"is damaged ({type(error).__name__})"
    if problem:
        logger.warning("%s/%s %s; it is written again", folder.uri, BOOKKEEPING_NAME, problem)
        folder.fs.delete_file(f"{folder.path}/{BOOKKEEPING_NAME}")


def _directories(folder: Folder) -> list[str]:
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    return [i.base_name for i in infos if i.type == pafs.FileType.Directory and i.base_name.startswith("checkpoint_")]


def _damage(folder: Folder, name: str) -> str | None:
    """What is wrong with a state by its own checksums; None if it is intact."""
    try:
        with (
            folder.fs.open_input_file(f"{folder.path}/{name}/{STATE_NAME}") as stream,
            zipfile.ZipFile(stream) as archive,
        ):
            broken = archive.testzip()
            return f"{broken}: wrong checksum" if broken else None
    except (OSError, zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
        return str(error) or type(error).__name__
