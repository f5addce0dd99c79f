"""The files that `evaluate.models` names: single checkpoints, and by a pattern all kept ones of a training."""

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow.fs as pafs

from facelib.config import Settings
from facelib.data import Folder
from facelib.data.listing import is_hidden
from facelib.models import read_checkpoint
from ray_jobs.embedding.models import model_names
from ray_jobs.errors import JobError
from ray_jobs.training.checkpoint import STATE_NAME

SUFFIXES = (".pt", ".pth", ".safetensors")


@dataclass(frozen=True)
class CheckpointFile:
    """A checkpoint to evaluate.

    Attributes:
        name: in tables.
        path: file or URI.
        series: the training whose checkpoints a pattern matched; empty: a model of its own.
        step: where it stands in the series' curves in MLflow: its epoch, or its place among checkpoints within epochs.
    """

    name: str
    path: str
    series: str = ""
    step: int = 0


def find_checkpoints(settings: Settings) -> list[CheckpointFile]:
    """The checkpoints of `evaluate.models`: of a pattern those that match, in natural order (epoch 9 before 10).

    Raises:
        JobError: a pattern matches no checkpoint.
    """
    entries = [settings.path(text) for text in settings.evaluate.models]
    single = [checkpoint_of(entry) for entry in entries if not is_pattern(entry)]
    names = iter(model_names(single))
    found: list[CheckpointFile] = []
    for entry in entries:
        if is_pattern(entry):
            found += _series(entry)
        else:
            found.append(CheckpointFile(next(names), checkpoint_of(entry)))
    return found


def is_pattern(path: str) -> bool:
    """Whether a path names several files (`ssl/training/*`); one that exists as it is written does not."""
    return any(mark in path for mark in "*?[") and _type(path) == pafs.FileType.NotFound


def checkpoint_of(path: str) -> str:
    """The file itself, or the state in the folder of a training's checkpoint."""
    return f"{path}/{STATE_NAME}" if _type(f"{path}/{STATE_NAME}") == pafs.FileType.File else path


def _series(pattern: str) -> list[CheckpointFile]:
    files = sorted(_matches(pattern), key=_natural)
    if not files:
        raise JobError(
            f"evaluate.models: {pattern} matches no checkpoint: folders with {STATE_NAME}, or files with the endings "
            f"{', '.join(SUFFIXES)}"
        )
    fixed = PurePosixPath(re.split(r"[*?[]", pattern)[0].rpartition("/")[0])
    series = fixed.parent.name if fixed.name == "training" else fixed.name
    states = [PurePosixPath(file).name == STATE_NAME for file in files]
    epochs = [_epoch(file) if state else _number(file) for file, state in zip(files, states, strict=True)]
    different = len(set(epochs)) == len(epochs)
    whole = different and all(epoch == int(epoch) for epoch in epochs)
    names = [f"epoch {epoch:g}" for epoch in epochs] if different and all(states) else model_names(files)
    return [
        CheckpointFile(f"{series} {name}", file, series, int(epoch) if whole else place)
        for place, (file, name, epoch) in enumerate(zip(files, names, epochs, strict=True), 1)
    ]


def _matches(pattern: str) -> Iterator[str]:
    """Checkpoints at the paths that match, found folder by folder."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if any(mark in part for mark in "*?["))
    places = ["/".join(parts[:first])]
    for part in parts[first:]:
        places = [f"{place}/{name}" for place in places for name in _names(place) if fnmatch.fnmatchcase(name, part)]
    for place in places:
        file = checkpoint_of(place)
        if file != place or (file.endswith(SUFFIXES) and _type(file) == pafs.FileType.File):
            yield file


def _names(uri: str) -> list[str]:
    folder = Folder(uri)
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    return [info.base_name for info in infos if not is_hidden(info.base_name)]


def _type(uri: str) -> pafs.FileType:
    folder = Folder(uri)
    return folder.fs.get_file_info(folder.path).type


def _epoch(path: str) -> float:
    """Epoch of a state of a training."""
    return float((read_checkpoint(path).image_spec or {}).get("training", {}).get("epoch", 0.5))


def _number(path: str) -> float:
    """The last number in a file's name, as in checkpoint_010.pth."""
    numbers = re.findall(r"\d+", PurePosixPath(path).stem)
    return float(numbers[-1]) if numbers else 0.5


def _natural(text: str) -> list[tuple[int, int, str]]:
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in re.split(r"(\d+)", text) if part]
