"""The input of the embed job, cut into tasks: runs of consecutive images of one part."""

import hashlib
from dataclasses import dataclass, field

from facelib.config import EmbedSettings
from facelib.data import IMAGE_SUFFIXES, MANIFEST_NAME, FaceDataset, Folder, ImageSpec
from facelib.data.listing import sized_images
from facelib.sources import Skipped
from ray_jobs.errors import JobError


@dataclass(frozen=True)
class EmbeddingTask:
    """Images that one actor reads at a time: files of a folder, or row groups of a dataset's part.

    Attributes:
        part: number of the output part it belongs to.
        number: of the task within that part.
        images: number of images.
        uri: folder or dataset.
        files: names below a folder.
        source: part file of a dataset.
        row_groups: of that part file.
    """

    part: int
    number: int
    images: int
    uri: str
    files: list[str] = field(default_factory=list)
    source: str = ""
    row_groups: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class EmbeddingInput:
    """A face dataset or a folder of images.

    Attributes:
        listing: text that identifies the input and changes with its content.
        tasks: in the input's order.
        left_out: everything in a folder that is not embedded, and why.
    """

    listing: str
    tasks: list[EmbeddingTask]
    left_out: list[Skipped] = field(default_factory=list)


def list_input(cfg: EmbedSettings, uri: str, image_spec: ImageSpec) -> EmbeddingInput:
    """List a face dataset or a folder of images.

    Args:
        image_spec: of the model's training faces.

    Raises:
        DatasetError: a dataset with another image spec.
        JobError: a folder without images.
    """
    if Folder(uri).exists(MANIFEST_NAME):
        return _dataset_tasks(cfg, uri, image_spec)
    return _folder_tasks(cfg, uri)


def _dataset_tasks(cfg: EmbedSettings, uri: str, image_spec: ImageSpec) -> EmbeddingInput:
    """One output part for each part of the dataset; tasks are whole row groups."""
    dataset = FaceDataset(uri)
    image_spec.require(dataset.image_spec, f"model {cfg.model}", f"dataset {uri}")
    tasks = []
    for part, info in enumerate(dataset.manifest.parts):
        groups: list[int] = []
        rows, number = 0, 0
        for group, (_, size) in enumerate(info.row_groups):
            groups.append(group)
            rows += size
            if rows >= cfg.images_per_task or group == len(info.row_groups) - 1:
                tasks.append(EmbeddingTask(part, number, rows, uri, source=info.name, row_groups=groups))
                groups, rows, number = [], 0, number + 1
    return EmbeddingInput(f"{uri} {hashlib.sha256(dataset.folder.read(MANIFEST_NAME)).hexdigest()}", tasks)


def _folder_tasks(cfg: EmbedSettings, uri: str) -> EmbeddingInput:
    """Image files of a folder and its subfolders, names ascending; links are followed, to each image once."""
    left_out: list[Skipped] = []

    def skip(reason: str, place: str, detail: str) -> None:
        left_out.append(Skipped(reason, place, detail))

    files = sized_images(Folder(uri), skip, follow_links=True)
    if not files:
        raise JobError(
            f"embed.input: {uri} is not a face dataset and contains no images ({', '.join(IMAGE_SUFFIXES)})"
            + (f"; {len(left_out)} files were left out, the first is {left_out[0]}" if left_out else "")
        )
    listing = hashlib.sha256("\n".join(f"{name}\t{size}" for name, size in files).encode()).hexdigest()
    names, tasks = [name for name, _ in files], []
    for part, begin in enumerate(range(0, len(names), cfg.images_per_part)):
        part_names = names[begin : begin + cfg.images_per_part]
        for number, first in enumerate(range(0, len(part_names), cfg.images_per_task)):
            task_names = part_names[first : first + cfg.images_per_task]
            tasks.append(EmbeddingTask(part, number, len(task_names), uri, files=task_names))
    return EmbeddingInput(f"{uri} {listing}", tasks, left_out)
