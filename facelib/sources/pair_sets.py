"""Verification pairs by name: from `.bin` files, or drawn from a face dataset."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.data import FaceDataset, ImageSpec
from facelib.data.image_headers import declared_size
from facelib.data.pairs import PairSet, pairs_from_dataset
from facelib.sources.bins import bin_paths, is_bin, read_bin


def load_pair_set(
    spec: str, pairs: int = 3000, seed: int = 0, template: str = "arcface", name: str | None = None
) -> PairSet:
    """Open `path.bin`, several as `a.bin+b.bin`, or the URI of a face dataset; `name=` before it names the set.

    Args:
        pairs: genuine, and as many impostor, pairs drawn from a face dataset; a `.bin` brings its own.
        name: of the set; then all of `spec` is the path.

    Raises:
        FileNotFoundError, ValueError: missing or damaged file, or a dataset that has too few identities.
    """
    path = spec
    if name is None:
        # A "=" after a slash or colon belongs to the path: s3://bucket/set.bin?region=x.
        head, equals, rest = spec.partition("=")
        name, path = (head, rest) if equals and not re.search("[/:]", head) else ("", spec)
    if not is_bin(path):
        return pairs_from_dataset(name or Path(path).name, FaceDataset(path), pairs, seed)
    name = name or "-".join(Path(p).stem for p in bin_paths(path))
    images, issame, size = read_bins(path, name)
    first = np.arange(0, len(images), 2)
    return PairSet(name, images, first, first + 1, issame, ImageSpec(template=template, size=size))


def read_bins(path: str, name: str) -> tuple[list[bytes], NDArray[np.bool_], int]:
    """Read `a.bin`, or several as `a.bin+b.bin`, whose images are faces of one size.

    Args:
        name: of the set, for messages.

    Returns:
        Encoded images (2P), whether a pair shows one identity [P], and the side of the images in pixels.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, no pairs, an image that cannot be read or has another size than the first.
    """
    images: list[bytes] = []
    labels, size = [], 0
    for file in bin_paths(path):
        found, issame = read_bin(file)
        for number, data in enumerate(found):
            size = _checked_size(data, size, f"set {name}: {file}: image {number}")
        images += found
        labels.append(issame)
    if not images:
        raise ValueError(f"{path}: holds no pairs")
    return images, np.concatenate(labels), size


def _checked_size(data: bytes, expected: int, where: str) -> int:
    """Side of a square image by its header; another one than `expected`, unless that is 0, is refused."""
    try:
        height, width = declared_size(data)
    except ValueError as error:
        raise ValueError(f"{where}: {error.args[0].removeprefix('image: ')}") from None
    side = expected or height
    if (height, width) != (side, side):
        raise ValueError(f"{where} has {width}x{height} pixels, not {side}x{side}: all images of a set are of one size")
    return side
