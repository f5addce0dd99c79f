"""Verification pairs by name: from `.bin` files, or drawn from a face dataset."""

import re
from pathlib import Path

import numpy as np

from facelib.data import FaceDataset, ImageSpec, decode_image
from facelib.data.pairs import PairSet, pairs_from_dataset
from facelib.sources.bins import bin_paths, read_bin


def load_pair_set(spec: str, pairs: int = 3000, seed: int = 0, template: str = "arcface") -> PairSet:
    """Open `path.bin`, several as `a.bin+b.bin`, or the URI of a face dataset; `name=` before it names the set.

    Args:
        pairs: genuine, and as many impostor, pairs drawn from a face dataset; a `.bin` brings its own.

    Raises:
        FileNotFoundError, ValueError: missing or damaged file, or a dataset that has too few identities.
    """
    # A "=" after a slash or colon belongs to the path: s3://bucket/set.bin?region=x.
    head, equals, rest = spec.partition("=")
    name, path = (head, rest) if equals and not re.search("[/:]", head) else ("", spec)
    if path.endswith(".bin"):
        paths = bin_paths(path)
        bins = [read_bin(p) for p in paths]
        images = [image for b in bins for image in b[0]]
        if not images:
            raise ValueError(f"{path}: holds no pairs")
        issame = np.concatenate([np.asarray(b[1], bool) for b in bins])
        first = np.arange(0, len(images), 2)
        image_spec = ImageSpec(template=template, size=decode_image(images[0]).shape[0])
        return PairSet(name or "-".join(Path(p).stem for p in paths), images, first, first + 1, issame, image_spec)
    return pairs_from_dataset(name or Path(path).name, FaceDataset(path), pairs, seed)
