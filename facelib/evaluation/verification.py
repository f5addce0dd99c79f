"""k-fold verification accuracy, the number LFW, AgeDB-30, CFP-FP, CALFW and CPLFW are reported with.

Protocol (Huang et al. 2007, as computed by the insightface evaluation code): the pairs are cut into `folds` consecutive
parts; for each part the threshold on the squared L2 distance of the normalized embeddings (0 to 4 in steps of 0.01)
that is most accurate on all the other parts is applied to it. The accuracy is the mean over the parts.

Only the number of pairs between two neighboring thresholds matters, so the work is one histogram [folds, 2, bins].

Shape legend: P pairs, D embedding size, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import BoolArray, FloatArray, pair_embeddings

AccuracyRule = Literal["kfold", "best_threshold"]


@dataclass(frozen=True)
class KFoldResult:
    """Accuracy of k-fold verification.

    Attributes:
        accuracy: mean over the folds, 0 to 1.
        std: population standard deviation over the folds (the number behind "±" in the literature).
        fold_accuracies: accuracy on each fold, float64 [folds].
        fold_thresholds: squared L2 distance below which a pair of that fold counts as the same person, float64 [folds].
    """

    accuracy: float
    std: float
    fold_accuracies: NDArray[np.float64]
    fold_thresholds: NDArray[np.float64]


def kfold_accuracy(first: Any, second: Any, issame: Any, folds: int = 10) -> KFoldResult:
    """k-fold verification accuracy of embeddings.

    With flip augmentation the caller passes f(x) + f(flipped x). Embeddings are normalized here.

    Args:
        first, second: embeddings of the left and right picture of each pair, [P, D].
        issame: 1 or True where both show the same person, [P]. Folds are consecutive, so the order of pairs matters.
        folds: number of parts.

    Raises:
        ValueError: shapes that do not match, values that are not finite, fewer pairs than folds.
    """
    first, second, same = pair_embeddings(first, second, issame)
    return kfold_from_distances(squared_distances(first, second), same, folds)


def kfold_from_distances(distances: FloatArray, issame: BoolArray, folds: int = 10) -> KFoldResult:
    """The same from squared L2 distances [P] of normalized embeddings (0 to 4)."""
    counts = threshold_histogram(distances, issame, folds)
    fold_accuracies, chosen = accuracies_from_histogram(counts)
    return KFoldResult(
        accuracy=float(fold_accuracies.mean()),
        std=float(fold_accuracies.std()),
        fold_accuracies=fold_accuracies,
        fold_thresholds=thresholds()[chosen],
    )


def thresholds() -> NDArray[np.float64]:
    """The field's grid of thresholds on the squared L2 distance: 0, 0.01, ..., 3.99."""
    return np.arange(0, 4, 0.01)


def squared_distances(first: FloatArray, second: FloatArray) -> Any:
    """Squared L2 distance [P] between the rows of two arrays [P, D]."""
    difference = first - second
    # np.sum, not einsum: its order of additions is the one the published numbers were made with.
    return np.sum(np.square(difference), axis=1)


def threshold_histogram(distances: FloatArray, issame: BoolArray, folds: int) -> NDArray[np.int64]:
    """Pairs per fold, label (0 different, 1 same) and bin, int64 [folds, 2, T + 1]; see `threshold_cells`."""
    width = len(thresholds()) + 1
    cells = threshold_cells(distances, issame, folds)
    return np.bincount(cells, minlength=folds * 2 * width).reshape(folds, 2, width)


def threshold_cells(distances: FloatArray, issame: BoolArray, folds: int) -> NDArray[np.int64]:
    """Cell of each pair [P] in the raveled histogram [folds, 2, T + 1].

    A pair in bin b is accepted (distance < threshold) by thresholds b, b+1, ...; bin T is accepted by none.

    Raises:
        ValueError: `folds` below 2 or above the number of pairs.
    """
    if not 2 <= folds <= len(distances):
        raise ValueError(
            f"folds is {folds}: k-fold accuracy of {len(distances)} pairs needs 2 to {len(distances)} folds"
        )
    grid = thresholds()
    bins = np.searchsorted(grid, distances, side="right")
    return (fold_of_pair(len(distances), folds) * 2 + issame) * (len(grid) + 1) + bins


def fold_of_pair(pairs: int, folds: int) -> NDArray[np.int64]:
    """Fold number of each pair [P]: consecutive, the first `pairs % folds` folds hold one pair more."""
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def accuracies_from_histogram(counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Accuracy per fold and index of the threshold chosen on the other folds, from counts [..., folds, 2, T + 1].

    Ties between thresholds go to the lowest one. Returns float64 [..., folds] and int64 [..., folds].
    """
    right, chosen = right_decisions(counts)
    return right / counts.sum(axis=(-2, -1)), chosen


def right_decisions(counts: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Pairs of each fold decided rightly, and the index of the threshold that decides them, each [..., folds]."""
    accepted = np.cumsum(counts[..., :-1], axis=-1)
    totals = counts.sum(axis=-1)
    correct = accepted[..., 1, :] + totals[..., 0, None] - accepted[..., 0, :]
    # Counts are whole numbers over one denominator: their argmax is the argmax of the accuracies, ties included.
    chosen = np.argmax(correct.sum(axis=-2, keepdims=True) - correct, axis=-1)
    return np.take_along_axis(correct, chosen[..., None], axis=-1)[..., 0], chosen
