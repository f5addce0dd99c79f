"""Verification pairs by name: from `.bin` files, or drawn from a face dataset."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.data import FaceDataset, Folder, ImageSpec
from facelib.data.image_headers import declared_size
from facelib.data.pairs import PairSet, pairs_from_dataset
from facelib.sources.bins import bin_paths, is_bin, read_bin
from facelib.sources.lfw import read_lfw_pairs

IDENTITIES = ".identities.txt"  # `<name>.identities.txt` beside `<name>.bin`: a line "identity identity" for each pair.


def load_pair_set(
    spec: str,
    pairs: int = 3000,
    seed: int = 0,
    template: str = "arcface",
    name: str | None = None,
    names: str = "",
) -> PairSet:
    """Open `path.bin`, several as `a.bin+b.bin`, or the URI of a face dataset; `name=` before it names the set.

    Args:
        pairs: genuine, and as many impostor, pairs drawn from a face dataset; a `.bin` brings its own.
        name: of the set; then all of `spec` is the path.
        names: LFW pair file whose pairs a `.bin` holds in the same order, several as `a.txt+b.txt`; empty: identities
            are read from `<name>.identities.txt` beside each `.bin`, as imports write it, and unknown without one.

    Raises:
        FileNotFoundError, ValueError: missing or damaged file, or a dataset that has too few identities.
    """
    path = spec
    if name is None:
        # A "=" after a slash or colon belongs to the path: s3://bucket/set.bin?region=x.
        head, equals, rest = spec.partition("=")
        name, path = (head, rest) if equals and not re.search("[/:]", head) else ("", spec)
    if not is_bin(path):
        if names:
            raise ValueError(f"{path}: names={names} is for .bin files; a face dataset knows its identities")
        return pairs_from_dataset(name or Path(path).name, FaceDataset(path), pairs, seed)
    name = name or "-".join(Path(p).stem for p in bin_paths(path))
    images, issame, size = read_bins(path, name)
    first = np.arange(0, len(images), 2)
    identities = _identities(bin_paths(path), issame, names)
    return PairSet(name, images, first, first + 1, issame, ImageSpec(template=template, size=size), identities)


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


def _identities(paths: Sequence[str], issame: NDArray[np.bool_], names: str) -> NDArray[np.int64] | None:
    """Identity of each image of `.bin` files with these pair labels, [2P]; None where any file's are unknown.

    Raises:
        ValueError: another number of pairs, or a genuine pair of two identities, or an impostor pair of one.
    """
    files = names.split("+") if names else [path[: -len(".bin")] + IDENTITIES for path in paths]
    listed: list[tuple[str, str]] = []
    for file in files:
        if names:
            found = read_lfw_pairs(file)
            keys = zip(found.first, found.second, strict=True)
            listed += [(first.rpartition("/")[0], second.rpartition("/")[0]) for first, second in keys]
        else:
            folder, name = Folder(os.path.dirname(file) or "."), os.path.basename(file)
            if not folder.exists(name):
                return None
            lines = folder.read(name).decode("utf-8").splitlines()
            listed += [(first, second) for first, _, second in (line.partition(" ") for line in lines)]
    where = " and ".join(files)
    if len(listed) != len(issame):
        raise ValueError(f"{where}: {len(listed)} pairs, {' and '.join(paths)} holds {len(issame)}")
    for number, ((first, second), same) in enumerate(zip(listed, issame.tolist(), strict=True)):
        if (first == second) != same:
            kind = "a genuine" if same else "an impostor"
            raise ValueError(
                f"{where}: pair {number} is of {first} and {second}, in {' and '.join(paths)} it is {kind} pair; the "
                "files do not belong together"
            )
    return np.unique(np.array(listed).ravel(), return_inverse=True)[1].astype(np.int64)
