"""Verification pairs with their pictures: from a `.bin` file, or drawn from a face dataset of unseen people.

P pairs, M images.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from facelib.faces import Contract, DatasetError, FaceDataset, decode_image
from facelib.sources.bins import read_bin


@dataclass(frozen=True)
class PairSet:
    """Genuine and impostor pairs.

    Args:
        images: M encoded pictures.
        first, second: int64 [P], the two images of each pair.
        issame: bool [P], True for genuine pairs.
        contract: what the pixels mean; a `.bin` does not say its template, which is `arcface` in the published sets.
    """

    name: str
    images: list[bytes]
    first: np.ndarray
    second: np.ndarray
    issame: np.ndarray
    contract: Contract


def load_pair_set(spec: str, pairs: int = 3000, seed: int = 0, template: str = "arcface") -> PairSet:
    """Open `path.bin`, several as `a.bin+b.bin`, or the URI of a face dataset; `name=` before it names the set.

    Args:
        pairs: genuine, and as many impostor, pairs drawn from a face dataset; a `.bin` brings its own.

    Raises:
        FileNotFoundError, ValueError: missing or damaged file, or a dataset that has too few identities.
    """
    name, _, path = spec.rpartition("=")
    if path.endswith(".bin"):
        bins = [read_bin(p) for p in path.split("+")]
        images = [image for b in bins for image in b[0]]
        issame = np.concatenate([np.asarray(b[1], bool) for b in bins])
        first = np.arange(0, len(images), 2)
        contract = Contract(template=template, size=decode_image(images[0]).shape[0])
        return PairSet(name or Path(path).stem, images, first, first + 1, issame, contract)
    return _from_dataset(name or Path(path).name, FaceDataset(path), pairs, seed)


def draw_pairs(identities: np.ndarray, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw genuine and impostor pairs of images.

    Genuine pairs are spread evenly over the identities. They alternate with the impostor pairs in blocks of ten folds,
    so that `kfold_accuracy` finds both kinds in each of its consecutive tenths.

    Args:
        identities: int64 [M], the identity of each image.
        pairs: how many of each kind; fewer when the images do not give that many.

    Returns:
        (first [P], second [P], issame [P]).

    Raises:
        ValueError: fewer than two identities, or no identity with two images.
    """
    rng = np.random.default_rng([seed, 1])
    order = np.argsort(identities, kind="stable")
    values, starts, counts = np.unique(identities[order], return_index=True, return_counts=True)
    if len(values) < 2 or counts.max() < 2:
        raise ValueError("pairs: need two identities, and one with two images")
    genuine = [
        (order[s + i], order[s + j])
        for s, c in zip(starts, counts, strict=True)
        for i, j in zip(*np.triu_indices(c, 1), strict=True)
    ]
    per_identity = max(1, pairs // len(values))
    if len(genuine) > pairs:
        picked: list[tuple[int, int]] = []
        begin = 0
        for count in counts * (counts - 1) // 2:
            take = rng.permutation(count)[:per_identity] + begin
            picked += [genuine[t] for t in take]
            begin += count
        genuine = picked
    impostor: set[tuple[int, int]] = set()
    while len(impostor) < len(genuine):
        a, b = rng.integers(0, len(identities), 2)
        if identities[a] != identities[b]:
            impostor.add((int(a), int(b)))
    blocks = [
        np.concatenate([np.array(g, np.int64).reshape(-1, 2), np.array(i, np.int64).reshape(-1, 2)])
        for g, i in zip(_tenths(genuine), _tenths(sorted(impostor)), strict=True)
    ]
    chosen = np.concatenate(blocks)
    issame = identities[chosen[:, 0]] == identities[chosen[:, 1]]
    return chosen[:, 0], chosen[:, 1], issame


def _from_dataset(name: str, dataset: FaceDataset, pairs: int, seed: int) -> PairSet:
    table = pa.concat_tables(dataset.tables(["image", "identity"]))
    try:
        first, second, issame = draw_pairs(table["identity"].to_numpy(), pairs, seed)
    except ValueError as error:
        raise DatasetError(f"{dataset.folder.uri}: {error}") from None
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    images = table["image"].take(pa.array(used)).to_pylist()
    return PairSet(name, images, inverse[: len(first)], inverse[len(first) :], issame, dataset.contract)


def _tenths(items: list) -> list[list]:
    bounds = np.linspace(0, len(items), 11).astype(int)
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
