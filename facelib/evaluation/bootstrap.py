"""Confidence intervals of verification measures by the bootstrap (Efron 1979) over identities, or over pairs.

Identities are resampled where they are known, and both models of a comparison see the same resamples; see
`facelib.evaluation.resampling`. Where only pairs are known, genuine and impostor pairs are resampled separately
(k-fold: within each fold too). Such intervals treat pairs as independent: pairs of a protocol share identities and
images, so the true uncertainty is larger than shown, most of all where few identities stand behind many pairs.

Shape legend: P pairs, B resamples, K bins, F false accept rates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import as_float, as_labels, check_finite, pair_embeddings
from facelib.evaluation.resampling import (
    Counts,
    Interval,
    PairTable,
    Resampled,
    bin_edges,
    check_resamples,
    resample,
    resample_bins,
)
from facelib.evaluation.roc import (
    SortedScores,
    TarRule,
    allowed_false_accepts,
    check_fars,
    interpolate_eer,
    nearest_point,
)
from facelib.evaluation.verification import right_decisions, squared_distances, threshold_cells, thresholds

# Above this number of pairs without identities `compare_auc` uses DeLong's normal interval instead of resampling.
MAX_PAIRS_RESAMPLED = 20_000
CELLS_PER_CHUNK = 2_000_000


@dataclass(frozen=True)
class RocSamples:
    """Measures of every resample at `fars` [F].

    Attributes:
        auc, eer: [B].
        tar: [B, F] by the rule asked for.
        thresholds: [B, F], lowest score accepted by the strict rule; infinity where nothing is.
    """

    auc: Resampled
    eer: Resampled
    tar: Resampled
    thresholds: Resampled
    fars: NDArray[np.float64]


@dataclass(frozen=True)
class AucComparison:
    """Difference of two models' AUC on the same pairs.

    Attributes:
        difference: AUC of the first model minus AUC of the second.
        interval: confidence interval of the difference; it excludes 0 where the models differ beyond chance.
        auc_first, auc_second: the two values.
        method: "identities" (paired bootstrap over identities); over pairs only "bootstrap" (paired), or "delong"
            (normal interval for large numbers of pairs).
    """

    difference: float
    interval: Interval
    auc_first: float
    auc_second: float
    method: str


def percentile_interval(samples: NDArray[np.float64], level: float = 0.95) -> Interval:
    """Percentile interval of resampled values [B]."""
    return Resampled(samples).interval(0.0, level)


def bootstrap_roc(
    similarities: Any,
    labels: Any,
    fars: Sequence[float],
    resamples: int = 1000,
    seed: int = 0,
    max_bins: int = 8192,
    identities: Any = None,
) -> RocSamples:
    """AUC, EER and strict TAR@FAR of `resamples` resamples; see the module's notes.

    Args:
        similarities, labels: scores and labels [P] (label 1: same person).
        fars: target false accept rates [F] in (0, 1].
        resamples: number of resamples B.
        seed: of the random numbers; equal seeds give equal results.
        max_bins: above this many pairs, scores are binned into about as many bins.
        identities: identity of each side of each pair, integers [P, 2]; None: only pairs are known.
    """
    scores = SortedScores.of(similarities, labels, identities)
    return bootstrap_sorted(scores, check_fars(fars), resamples, seed, max_bins)


def bootstrap_sorted(
    scores: SortedScores,
    fars: Any,
    resamples: int = 1000,
    seed: int = 0,
    max_bins: int = 8192,
    rule: TarRule = "strict",
) -> RocSamples:
    """`bootstrap_roc` of scores that are split and sorted already; `rule` as in `tar_at_far`; a FAR may be 0."""
    targets = np.atleast_1d(check_fars(fars, zero=True))
    edges = bin_edges(scores, max_bins)
    # The lowest of the n highest bins that are accepted; none of them: nothing reaches infinity.
    limits = np.append(edges, np.inf).astype(np.float64)

    def measures(counts: Counts) -> tuple[NDArray[Any], ...]:
        auc, eer, tar, accepted = _measures(counts[:, 1], counts[:, 0], targets, rule)
        return auc, eer, tar, limits[len(edges) - accepted]

    auc, eer, tar, thresholds = resample([PairTable.of_scores(scores, edges)], measures, resamples, seed)
    return RocSamples(auc, eer, tar, thresholds, targets)


def bootstrap_kfold(
    first: Any,
    second: Any,
    issame: Any,
    folds: int = 10,
    resamples: int = 1000,
    seed: int = 0,
    identities: NDArray[Any] | None = None,
) -> Resampled:
    """k-fold accuracy of each resample [B]; arguments as for `kfold_accuracy` and `bootstrap_roc`.

    Without identities pairs are resampled within fold and label. The thresholds are chosen anew on every resample.
    """
    first, second, same = pair_embeddings(first, second, issame)
    cells = threshold_cells(squared_distances(first, second), same, folds)
    return bootstrap_folds(cells, folds, resamples, seed, identities)


def bootstrap_folds(
    cells: NDArray[np.int64], folds: int, resamples: int = 1000, seed: int = 0, identities: NDArray[Any] | None = None
) -> Resampled:
    """`bootstrap_kfold` from the cells [P] of `verification.threshold_cells`."""
    width = len(thresholds()) + 1
    table = PairTable.of_cells(cells, (folds * 2, width), identities)
    impostors, genuine = table.counts.reshape(folds, 2, width).sum(axis=(0, 2))
    shares = np.array([impostors, genuine]) // np.gcd(impostors, genuine)

    def accuracy(counts: Counts) -> tuple[NDArray[Any], ...]:
        counts = counts.reshape(len(counts), folds, 2, width)
        # A protocol fixes the shares of impostor and genuine pairs, those of resampled identities vary: each kind is
        # weighted by the number of the other, in whole numbers, so that thresholds that are equally good stay so.
        drawn = counts.sum(axis=(1, 3))
        weights = shares * drawn[:, ::-1]
        right = right_decisions(counts * weights[:, None, :, None])[0].sum(axis=-1)
        return (right / (weights * drawn).sum(axis=1),)

    return resample([table], accuracy, resamples, seed)[0]


def bootstrap_best_accuracy(
    scores: SortedScores, resamples: int = 1000, seed: int = 0, max_bins: int = 8192
) -> Resampled:
    """`SortedScores.best_accuracy` of each resample [B], the threshold chosen anew on each."""
    genuine, impostors = len(scores.genuine), len(scores.impostors)

    def accuracy(counts: Counts) -> tuple[NDArray[Any], ...]:
        false, true = (accepted_counts(counts[:, kind]) for kind in (0, 1))
        right = true / true[:, -1:] * genuine + (1 - false / false[:, -1:]) * impostors
        return (right.max(axis=1) / (genuine + impostors),)

    table = PairTable.of_scores(scores, bin_edges(scores, max_bins))
    return resample([table], accuracy, resamples, seed)[0]


def compare_auc(
    scores_a: Any,
    scores_b: Any,
    labels: Any,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
    identities: Any = None,
) -> AucComparison:
    """AUC of model a minus AUC of model b on the same pairs, with a paired confidence interval.

    Both models see the same resamples, so what makes an identity or a pair hard for both cancels. Above 20,000 pairs
    without identities the interval is DeLong's (1988), which the bootstrap over pairs approaches as pairs grow.

    Args:
        scores_a, scores_b: similarities of the two models, [P] each, in the same order of pairs.
        labels: 1 or True for the same person, [P].
        identities: identity of each side of each pair, integers [P, 2]; None: only pairs are known.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, only one kind of pair.
    """
    same = as_labels(labels)
    sides = []
    for name, scores in (("scores_a", scores_a), ("scores_b", scores_b)):
        side = as_float(scores, name).astype(np.float64)
        if side.shape != same.shape:
            raise ValueError(f"{name} has shape {list(side.shape)}, labels {list(same.shape)}; both must be [P]")
        check_finite(side, name)
        sides.append(side)
    both = [SortedScores.of(side, same, identities) for side in sides]
    auc_a, auc_b = (scores.auc for scores in both)
    check_resamples(resamples)
    if identities is not None:
        drawn = [bootstrap_sorted(scores, [1.0], resamples, seed).auc for scores in both]
        method, interval = "identities", (drawn[0] - drawn[1]).interval(auc_a - auc_b, level)
    elif len(same) > MAX_PAIRS_RESAMPLED:
        method, interval = "delong", _delong_interval(sides[0], sides[1], same, level)
    else:
        method, interval = "bootstrap", _paired_interval(sides[0], sides[1], same, resamples, seed, level)
    return AucComparison(auc_a - auc_b, interval, auc_a, auc_b, method)


def resample_chunks(resamples: int, cells: int) -> Iterator[int]:
    """Sizes of the chunks in which `resamples` rows of `cells` numbers are worked off, to bound memory."""
    size = max(1, CELLS_PER_CHUNK // cells)
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _measures(
    genuine: NDArray[np.int64], impostors: NDArray[np.int64], fars: NDArray[np.float64], rule: TarRule
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """AUC [B], EER [B], TAR [B, F] and the bins the strict rule accepts [B, F], of counts [B, K] in ascending bins."""
    false_accepts, true_accepts = accepted_counts(impostors), accepted_counts(genuine)
    pairs_i, pairs_g = false_accepts[:, -1:], true_accepts[:, -1:]
    # Each genuine pair beats the impostors below its bin, and half of those in it.
    below = pairs_i - false_accepts[:, 1:] + impostors[:, ::-1] / 2
    auc = np.einsum("bk,bk->b", genuine[:, ::-1].astype(np.float64), below) / (pairs_i * pairs_g)[:, 0]
    fmr, fnmr = false_accepts / pairs_i, 1 - true_accepts / pairs_g
    crossing = np.argmax(fmr >= fnmr, axis=1)
    rows = np.arange(len(fmr))
    eer = interpolate_eer(fmr[rows, crossing - 1], fnmr[rows, crossing - 1], fmr[rows, crossing], fnmr[rows, crossing])
    accepted = strictly_accepted(false_accepts, fars)
    if rule == "strict":
        tar = np.take_along_axis(true_accepts, accepted, axis=1) / pairs_g
    else:
        tar = np.stack([_nearest_of_row(*row, fars) for row in zip(false_accepts, true_accepts, strict=True)])
    return auc, eer, tar, accepted


def _nearest_of_row(false: NDArray[np.int64], true: NDArray[np.int64], fars: NDArray[np.float64]) -> NDArray[Any]:
    # Bins that a resample left empty are no points of its curve.
    point = np.append(True, (np.diff(false) != 0) | (np.diff(true) != 0))
    return nearest_point(false[point], true[point], fars)[1]


def strictly_accepted(false_accepts: NDArray[np.int64], fars: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many of the highest bins may be accepted with FAR at or below each target, [B, F].

    Args:
        false_accepts: impostor pairs accepted with the k highest bins, [B, K + 1].
    """
    accepted = np.empty((len(false_accepts), len(fars)), dtype=np.int64)
    for column, far in enumerate(fars):
        allowed = allowed_false_accepts(far, false_accepts[:, -1:])
        accepted[:, column] = np.sum(false_accepts <= allowed, axis=1) - 1
    return accepted


def accepted_counts(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs accepted when the k highest bins are, [B, K + 1] for k = 0..K."""
    accepted = np.zeros((counts.shape[0], counts.shape[1] + 1), dtype=np.int64)
    np.cumsum(counts[:, ::-1], axis=1, out=accepted[:, 1:])
    return accepted


def _paired_interval(
    first: NDArray[Any], second: NDArray[Any], same: NDArray[np.bool_], resamples: int, seed: int, level: float
) -> Interval:
    rng = np.random.default_rng(seed)
    bins = [np.unique(scores, return_inverse=True)[1] for scores in (first, second)]
    differences = []
    for size in resample_chunks(resamples, len(same)):
        weights = np.zeros((size, len(same)))
        for label in (True, False):
            members = np.flatnonzero(same == label)
            weights[:, members] = resample_bins(rng, np.ones(len(members), dtype=np.int64), size)
        auc = [_weighted_auc(weights, ranks, same) for ranks in bins]
        differences.append(auc[0] - auc[1])
    return percentile_interval(np.concatenate(differences), level)


def _weighted_auc(
    weights: NDArray[np.float64], ranks: NDArray[np.int64], same: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """AUC [B] of pairs with whole-number weights [B, P] and dense score ranks [P]."""
    order = np.argsort(ranks, kind="stable")
    starts = np.flatnonzero(np.diff(ranks[order], prepend=-1))
    ordered = weights[:, order]
    impostors = np.add.reduceat(ordered * ~same[order], starts, axis=1)
    genuine = np.add.reduceat(ordered * same[order], starts, axis=1)
    below = np.cumsum(impostors, axis=1) - impostors / 2
    return np.einsum("bk,bk->b", genuine, below) / (genuine.sum(axis=1) * impostors.sum(axis=1))


def _delong_interval(first: NDArray[Any], second: NDArray[Any], same: NDArray[np.bool_], level: float) -> Interval:
    """Normal interval of the AUC difference from the placements of every pair (DeLong et al. 1988)."""
    from scipy.stats import norm

    genuine, impostors = [], []
    for scores in (first, second):
        sorted_scores = SortedScores.of(scores, same)
        genuine.append(_placements(scores[same], sorted_scores.impostors))
        impostors.append(1 - _placements(scores[~same], sorted_scores.genuine))
    difference = genuine[0].mean() - genuine[1].mean()
    variance = sum(np.var(side[0] - side[1], ddof=1) / len(side[0]) for side in (genuine, impostors))
    margin = norm.ppf((1 + level) / 2) * np.sqrt(variance)
    return Interval(float(difference - margin), float(difference + margin), level)


def _placements(scores: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
    """Share of the ascending `others` below each score, ties counting half."""
    below = np.searchsorted(others, scores, side="left")
    not_above = np.searchsorted(others, scores, side="right")
    return (below + not_above) / (2 * len(others))
