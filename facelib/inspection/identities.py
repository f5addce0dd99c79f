"""How far the people of a set differ, as a recognition network sees them.

Shapes: N faces, D embedding, I identities, P pairs.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facelib.evaluation.roc import equal_error_rate, roc_auc
from facelib.utils.arrays import l2_normalize

_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class IdentityReport:
    """Separability of identities.

    Attributes:
        identities: I, those with two pictures or more.
        auc, eer: of genuine against impostor pairs of pictures.
        genuine, impostor: mean cosine similarity of such pairs.
        d_prime: difference of the means over the root of the mean variance (d').
        rank1: share of pictures nearest to the mean of their own identity's other pictures, among all identities.
        identity_share: share of the embeddings' variance that lies between identities; the rest is pose, light ...
        dimensions: how many directions the identities' means fill, (Σλ)²/Σλ² of their covariance: few for one family.
        nearest_other: 5, 50 and 95 % quantiles of each identity's similarity to the most similar other one (of means).
        lookalikes: identities of the most similar pairs of means, with their similarity, most similar first.
        scattered: identities whose pictures differ most, with their mean similarity to their own mean.
    """

    identities: int
    auc: float
    eer: float
    genuine: float
    impostor: float
    d_prime: float
    rank1: float
    identity_share: float
    dimensions: float
    nearest_other: tuple[float, float, float]
    lookalikes: list[tuple[int, int, float]] = field(repr=False)
    scattered: list[tuple[int, float]] = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def inspect_identities(
    embeddings: ArrayLike, identities: ArrayLike, pairs: int = 20_000, seed: int = 0, listed: int = 8
) -> IdentityReport:
    """Judge a set by embeddings [N, D] (any length) of pictures of identities [N].

    Args:
        pairs: genuine, and as many impostor, pairs that are drawn at most.
        listed: how many look-alikes and scattered identities are named.

    Raises:
        ValueError: fewer than two identities with two pictures, or wrong shapes.
    """
    vectors, numbers = np.asarray(embeddings, np.float32), np.asarray(identities, np.int64)
    if vectors.ndim != 2 or numbers.shape != vectors.shape[:1]:
        raise ValueError(
            f"embeddings {list(vectors.shape)} and identities {list(numbers.shape)} must be [N, D] and [N]"
        )
    values, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    kept = counts[inverse] > 1
    if (counts > 1).sum() < 2:
        raise ValueError("two identities with two pictures each are the least that can be told apart")
    unit = l2_normalize(vectors[kept])
    values, inverse, counts = np.unique(numbers[kept], return_inverse=True, return_counts=True)
    sums = np.zeros((len(values), unit.shape[1]), np.float32)
    np.add.at(sums, inverse, unit)
    centers = l2_normalize(sums)
    genuine, impostor = _pair_similarities(unit, inverse, counts, pairs, np.random.default_rng(seed))
    scores = np.concatenate([genuine, impostor])
    labels = np.arange(len(scores)) < len(genuine)
    nearest, best = _nearest_others(centers)
    own = np.bincount(inverse, (unit * centers[inverse]).sum(1)) / counts
    scattered = np.argsort(own)[:listed]
    means = sums / counts[:, None]
    within = float(((unit - means[inverse]) ** 2).sum())
    total = float(((unit - unit.mean(0)) ** 2).sum())
    spectrum = np.linalg.eigvalsh(np.cov(centers, rowvar=False).astype(np.float64)).clip(0)
    return IdentityReport(
        identities=len(values),
        auc=float(roc_auc(scores, labels)),
        eer=float(equal_error_rate(scores, labels)),
        genuine=float(genuine.mean()),
        impostor=float(impostor.mean()),
        d_prime=float((genuine.mean() - impostor.mean()) / np.sqrt((genuine.var() + impostor.var()) / 2 + 1e-12)),
        rank1=_rank1(unit, inverse, sums),
        identity_share=1 - within / max(total, 1e-12),
        dimensions=float(spectrum.sum() ** 2 / max((spectrum**2).sum(), 1e-24)),
        nearest_other=tuple(float(q) for q in np.quantile(best, [0.05, 0.5, 0.95])),  # type: ignore[arg-type]
        lookalikes=_lookalikes(values, nearest, best, listed),
        scattered=[(int(values[i]), float(own[i])) for i in scattered],
    )


def _pair_similarities(
    unit: NDArray[np.float32], inverse: NDArray[np.intp], counts: NDArray[np.intp], pairs: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosines of drawn genuine and impostor pairs [P] each; every identity is as likely as any other."""
    order, starts = np.argsort(inverse, kind="stable"), np.cumsum(counts) - counts
    number = min(pairs, int((counts * (counts - 1) // 2).sum()))
    one = rng.integers(0, len(counts), number)
    first = (rng.random(number) * counts[one]).astype(np.int64)
    second = (first + 1 + (rng.random(number) * (counts[one] - 1)).astype(np.int64)) % counts[one]
    other = (one + 1 + rng.integers(0, len(counts) - 1, number)) % len(counts)
    stranger = (rng.random(number) * counts[other]).astype(np.int64)
    a, b, c = (unit[order[starts[i] + j]] for i, j in ((one, first), (one, second), (other, stranger)))
    return (a * b).sum(1), (a * c).sum(1)


def _nearest_others(centers: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The most similar other identity of each, and how similar it is [I]."""
    nearest, best = np.zeros(len(centers), np.int64), np.zeros(len(centers), np.float32)
    for start in range(0, len(centers), _ROWS_AT_ONCE):
        block = centers[start : start + _ROWS_AT_ONCE] @ centers.T
        rows = np.arange(len(block))
        block[rows, rows + start] = -2
        nearest[start : start + len(block)] = block.argmax(1)
        best[start : start + len(block)] = block.max(1)
    return nearest, best


def _rank1(unit: NDArray[np.float32], inverse: NDArray[np.intp], sums: NDArray[np.float32]) -> float:
    """Share of pictures that the mean of their identity's other pictures is nearer to than any other mean."""
    centers, hits = l2_normalize(sums), 0
    for start in range(0, len(unit), _ROWS_AT_ONCE):
        rows, own = unit[start : start + _ROWS_AT_ONCE], inverse[start : start + _ROWS_AT_ONCE]
        block = rows @ centers.T
        block[np.arange(len(rows)), own] = -2
        hits += int(((rows * l2_normalize(sums[own] - rows)).sum(1) > block.max(1)).sum())
    return hits / len(unit)


def _lookalikes(
    values: NDArray[np.int64], nearest: NDArray[np.int64], best: NDArray[np.float32], listed: int
) -> list[tuple[int, int, float]]:
    pairs: dict[tuple[int, int], float] = {}
    for i in np.argsort(-best):
        a, b = sorted((int(i), int(nearest[i])))
        pairs.setdefault((int(values[a]), int(values[b])), float(best[i]))
        if len(pairs) == listed:
            break
    return [(a, b, similarity) for (a, b), similarity in pairs.items()]
