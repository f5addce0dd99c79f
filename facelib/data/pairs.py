"""Verification pairs of images, and drawing them from a face dataset.

P pairs, M images.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from facelib.data.dataset import FaceDataset
from facelib.data.errors import DatasetError
from facelib.data.image_spec import ImageSpec
from facelib.utils.random_streams import Purpose, random_generator


@dataclass(frozen=True)
class PairSet:
    """Genuine and impostor pairs.

    Args:
        images: M encoded images.
        first, second: int64 [P], the two images of each pair.
        issame: bool [P], True for genuine pairs.
        image_spec: what the pixels mean; a `.bin` does not say its template, which is `arcface` in the published sets.
        identities: int64 [M], of each image; None where only pairs are known.
    """

    name: str
    images: list[bytes]
    first: np.ndarray
    second: np.ndarray
    issame: np.ndarray
    image_spec: ImageSpec
    identities: np.ndarray | None = None


def pairs_from_dataset(name: str, dataset: FaceDataset, pairs: int, seed: int) -> PairSet:
    """The images of `pairs` genuine and as many impostor pairs of a dataset, drawn by `draw_pairs`.

    Raises:
        DatasetError: too few identities or images.
    """
    table = pa.concat_tables(dataset.tables(["image", "identity"]))
    identities = table["identity"].to_numpy()
    try:
        first, second, issame = draw_pairs(identities, pairs, seed)
    except ValueError as error:
        raise DatasetError(f"{dataset.folder.uri}: {error}") from None
    used, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    images = table["image"].take(pa.array(used)).to_pylist()
    sides = inverse[: len(first)], inverse[len(first) :]
    return PairSet(name, images, *sides, issame, dataset.image_spec, identities[used])


def draw_pairs(identities: np.ndarray, pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw genuine and impostor pairs of images.

    Genuine pairs are spread evenly over the identities. They alternate with the impostor pairs in blocks of ten folds,
    so that `kfold_accuracy` finds both kinds in each of its consecutive tenths.

    Args:
        identities: int64 [M], the identity of each image.
        pairs: how many of each kind at most; fewer if there are not that many.

    Returns:
        (first [P], second [P], issame [P]).

    Raises:
        ValueError: fewer than two identities, or no identity with two images.
    """
    rng = random_generator(Purpose.EVALUATION_PAIRS, seed)
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


def _in_turns(counts: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """`total` of Σ `counts` consecutive items, ascending: one of each group in turn, until there are enough."""
    turn = np.concatenate([np.argsort(rng.permutation(count)) for count in counts])
    return np.sort(np.lexsort((rng.random(len(turn)), turn))[:total])


def _draw_impostors(identities: np.ndarray, count: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """`count` pairs of images of two identities, without duplicates; all pairs if there are fewer."""
    _, counts = np.unique(identities, return_counts=True)
    available = int(len(identities) ** 2 - np.sum(counts**2)) // 2
    if 2 * count > available:
        # Rejecting duplicates would take long, or never end.
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
