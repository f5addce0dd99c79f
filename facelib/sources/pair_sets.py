"""Verification pairs with their pictures: from a `.bin` file, or drawn from a face dataset of unseen people.

P pairs, M images.
"""

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from facelib.data import DatasetError, FaceDataset, ImageSpec, decode_image
from facelib.sources.bins import bin_paths, read_bin


@dataclass(frozen=True)
class PairSet:
    """Genuine and impostor pairs.

    Args:
        images: M encoded pictures.
        first, second: int64 [P], the two images of each pair.
        issame: bool [P], True for genuine pairs.
        image_spec: what the pixels mean; a `.bin` does not say its template, which is `arcface` in the published sets.
    """

    name: str
    images: list[bytes]
    first: np.ndarray
    second: np.ndarray
    issame: np.ndarray
    image_spec: ImageSpec


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
    return _from_dataset(name or Path(path).name, FaceDataset(path), pairs, seed)


def draw_pairs(identities: np.ndarray, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw genuine and impostor pairs of images.

    Genuine pairs are spread evenly over the identities. They alternate with the impostor pairs in blocks of ten folds,
    so that `kfold_accuracy` finds both kinds in each of its consecutive tenths.

    Args:
        identities: int64 [M], the identity of each image.
        pairs: how many of each kind at most; fewer when the images do not give that many.

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
    if len(genuine) > pairs:
        genuine = [genuine[i] for i in _in_turns(counts * (counts - 1) // 2, pairs, rng)]
    impostor = _draw_impostors(identities, len(genuine), rng)
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
    return PairSet(name, images, inverse[: len(first)], inverse[len(first) :], issame, dataset.image_spec)


def _in_turns(counts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """`total` of Σ `counts` consecutive items, ascending: one of each group in turn, until there are enough."""
    turn = np.concatenate([np.argsort(rng.permutation(count)) for count in counts])
    return np.sort(np.lexsort((rng.random(len(turn)), turn))[:total])


def _draw_impostors(identities: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """`count` pairs of images of two people, no two pairs of the same images; all there are when they are fewer."""
    _, counts = np.unique(identities, return_counts=True)
    available = int(len(identities) ** 2 - np.sum(counts**2)) // 2
    if 2 * count > available:
        # Drawing until something new comes would take long, or never end.
        first, second = np.triu_indices(len(identities), 1)
        differ = np.flatnonzero(identities[first] != identities[second])
        chosen = rng.permutation(differ)[:count]
        return list(zip(first[chosen].tolist(), second[chosen].tolist(), strict=True))
    drawn: dict[frozenset[int], tuple[int, int]] = {}
    while len(drawn) < count:
        a, b = (int(i) for i in rng.integers(0, len(identities), 2))
        if identities[a] != identities[b]:
            drawn.setdefault(frozenset((a, b)), (a, b))
    return list(drawn.values())


def _tenths(items: list) -> list[list]:
    bounds = np.linspace(0, len(items), 11).astype(int)
    return [items[a:b] for a, b in itertools.pairwise(bounds)]
