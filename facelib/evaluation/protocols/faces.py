"""Faces to embed, cut into parts that travel to workers and are read and decoded there.

Shape legend: N faces, H and W pixels.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from facelib.alignment import align_face
from facelib.data import DatasetError, Folder, decode_image


class FaceImages(abc.ABC):
    """N aligned faces of one size, none of them decoded until asked for. Instances are pickled to workers."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """N."""

    @abc.abstractmethod
    def part(self, begin: int, end: int) -> FaceImages:
        """Faces `begin` to `end` (exclusive), holding no more than they need."""

    @abc.abstractmethod
    def decode(self) -> NDArray[np.uint8]:
        """RGB [N, H, W, 3].

        Raises:
            ValueError: names the picture that cannot be read or has another size.
        """

    def name_of(self, row: int) -> str:
        """Face `row` in messages."""
        return f"face {row}"

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes when any face does; embeddings are cached by it."""


class EncodedImages(FaceImages):
    """Aligned faces held as encoded pictures.

    Args:
        images: JPEG, PNG, ... bytes.
        name: of the set, for messages.
        first: number of the first image in the whole set, for messages.
    """

    def __init__(self, images: Sequence[bytes], name: str = "faces", first: int = 0) -> None:
        self.images, self.name, self.first = images, name, first

    def __len__(self) -> int:
        return len(self.images)

    def part(self, begin: int, end: int) -> EncodedImages:
        return EncodedImages(self.images[begin:end], self.name, self.first + begin)

    def decode(self) -> NDArray[np.uint8]:
        pictures = []
        for number, data in enumerate(self.images, self.first):
            try:
                pictures.append(decode_image(data))
            except ValueError as error:
                raise ValueError(f"{self.name}: picture {number}: {error}") from None
        return stack_faces(pictures, [self.name_of(row) for row in range(len(pictures))])

    def name_of(self, row: int) -> str:
        return f"{self.name}: picture {self.first + row}"

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for data in self.images:
            digest.update(len(data).to_bytes(8, "little"))
            digest.update(data)
        return digest.hexdigest()


class ImageFiles(FaceImages):
    """Picture files in a folder or behind a URI, aligned as they are read.

    Args:
        folder: folder or URI.
        names: files below it, N.
        landmarks: five (x, y) points in pixels of each picture, [N, 5, 2]; None: the pictures are aligned already.
        template, size: what they are aligned to, see `align_face`.
    """

    def __init__(
        self,
        folder: str,
        names: Sequence[str],
        landmarks: NDArray[np.float32] | None = None,
        template: str = "arcface",
        size: int = 112,
    ) -> None:
        self.folder, self.names, self.landmarks, self.template, self.size = folder, names, landmarks, template, size

    def __len__(self) -> int:
        return len(self.names)

    def part(self, begin: int, end: int) -> ImageFiles:
        landmarks = None if self.landmarks is None else self.landmarks[begin:end]
        return ImageFiles(self.folder, self.names[begin:end], landmarks, self.template, self.size)

    def decode(self) -> NDArray[np.uint8]:
        folder = Folder(self.folder)
        faces = []
        for number, name in enumerate(self.names):
            try:
                picture = decode_image(folder.read(name))
                if self.landmarks is not None:
                    picture = align_face(picture, self.landmarks[number], self.template, self.size).astype(np.uint8)
            except DatasetError:
                raise
            except ValueError as error:
                raise ValueError(f"{self.folder}/{name}: {error}") from None
            faces.append(picture)
        return stack_faces(faces, [self.name_of(row) for row in range(len(faces))], self.size)

    def name_of(self, row: int) -> str:
        return f"{self.folder}/{self.names[row]}"

    @cached_property
    def fingerprint(self) -> str:
        """Of names, sizes, times of change and landmarks: reading a million pictures twice would cost too much."""
        digest = hashlib.sha256(f"{self.template} {self.size}".encode())
        if self.landmarks is not None:
            digest.update(np.ascontiguousarray(self.landmarks).tobytes())
        folder = Folder(self.folder)
        for begin in range(0, len(self.names), 10_000):
            names = self.names[begin : begin + 10_000]
            for info in folder.fs.get_file_info([f"{folder.path}/{name}" for name in names]):
                if info.type != pafs.FileType.File:
                    raise FileNotFoundError(f"{info.path}: no such picture, though the set's lists name it")
                digest.update(f"{info.path.removeprefix(folder.path)} {info.size} {info.mtime_ns}\n".encode())
        return digest.hexdigest()


def stack_faces(
    pictures: Sequence[NDArray[np.uint8]], names: Sequence[str], size: int | None = None
) -> NDArray[np.uint8]:
    """One array [N, H, W, 3] of pictures of one size; ValueError names the first that differs."""
    if not pictures:
        return np.zeros((0, size or 112, size or 112, 3), np.uint8)
    expected = pictures[0].shape if size is None else (size, size, 3)
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape != expected:
            found, wanted = (f"{shape[1]}x{shape[0]}" for shape in (picture.shape, expected))
            raise ValueError(
                f"{name} has {found} pixels instead of {wanted}: all faces of a set are aligned to one size"
            )
    return np.stack(pictures)
