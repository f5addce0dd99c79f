"""What can be exported as image files: face datasets and RecordIO files, read part by part, never decoded."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from facelib.data import MANIFEST_NAME, FaceDataset, Folder
from facelib.data.image_headers import image_suffix
from facelib.data.image_tree import TreeIdentity
from facelib.sources.recordio_source import RecordIOSource
from facelib.sources.source import Skipped, UnreadableImageError


class ImageInput(Protocol):
    """Encoded images by identity, in parts of whole identities. Pickled to the workers that read.

    Attributes:
        fingerprint: of the content; another one is another export.
        license: the terms of the images where they are known, else "".
        sizes: number of images in each part.
        skipped: what listing left out.
    """

    fingerprint: str
    license: str
    sizes: list[int]
    skipped: list[Skipped]

    def read(self, part: int) -> Iterator[TreeIdentity | Skipped]:
        """The identities of a part, and the images that cannot be read."""
        ...


class DatasetImages:
    """A finished face dataset; see `ImageInput`.

    Raises:
        DatasetError: it is missing, unfinished or damaged.
    """

    def __init__(self, uri: str) -> None:
        self.dataset = FaceDataset(uri)
        self.fingerprint = self.dataset.fingerprint
        self.license = str(self.dataset.manifest.spec.get("generator_licence", ""))
        self.sizes = [part.rows for part in self.dataset.manifest.parts]
        self.skipped: list[Skipped] = []

    def read(self, part: int) -> Iterator[TreeIdentity | Skipped]:
        """Row group by row group; images keep their numbers."""
        info = self.dataset.manifest.parts[part]
        for group in range(len(info.row_groups)):
            table = self.dataset.read_row_groups(info.name, [group], ["image", "identity", "index"])
            identities, indices = table["identity"].to_numpy(), table["index"].to_numpy()
            cuts = np.flatnonzero(np.r_[True, np.diff(identities) != 0]).tolist()
            for begin, end in itertools.pairwise([*cuts, len(identities)]):
                number, images = int(identities[begin]), table["image"].slice(begin, end - begin).to_pylist()
                yield TreeIdentity(number, f"0_{number}", list(zip(indices[begin:end].tolist(), images)))


class RecordIOImages:
    """The images of RecordIO files; see `ImageInput`. Identities are numbered as an import numbers them.

    Args:
        images_per_part: about.
    """

    license = ""

    def __init__(self, source: RecordIOSource, images_per_part: int) -> None:
        self.source, index = source, source.index()
        self.skipped, index.skipped = index.skipped, []  # listed once, not copied to every worker
        self.index, self.fingerprint = index, index.fingerprint
        self.folders = source.rec2image_names(index)
        self.ranges = index.split(images_per_part)
        self.sizes = [end - begin for begin, end in self.ranges]

    def read(self, part: int) -> Iterator[TreeIdentity | Skipped]:
        """Record by record; an identity none of whose images can be read is left out."""
        for number, entries in itertools.groupby(self.index.entries(*self.ranges[part]), lambda e: e.identity):
            images = []
            for entry in entries:
                try:
                    data = self.source.read(entry)
                    image_suffix(data)
                    images.append((entry.index, data))
                except UnreadableImageError as error:
                    yield Skipped(error.reason, entry.place, error.detail, damage=True)
                except ValueError as error:
                    yield Skipped("not_a_picture", entry.place, str(error), damage=True)
            if images:
                yield TreeIdentity(number, self.folders[number], images)


def is_recordio(paths: Sequence[str]) -> bool:
    """Whether paths name RecordIO files: several, a pattern, a `.rec` file, or a folder that holds one."""
    if len(paths) > 1 or any(path.lower().endswith(".rec") for path in paths):
        return True
    [path] = paths
    if "://" in path or Folder(path).exists(MANIFEST_NAME):
        return False
    return (glob.has_magic(path) and not Path(path).exists()) or bool(list(Path(path).glob("*.[rR][eE][cC]")))
