"""Threshold-free and fixed-error measures of verification scores: ROC, AUC, EER, TAR@FAR, FMR100.

Everything works on two sorted arrays, genuine and impostor scores, so that the 15.7 million pairs of IJB-C take one
sort of float32 scores and no array of indices. A pair is accepted when its score is at or above the threshold; equal
scores are accepted or rejected together.

Terms: FAR = FMR (share of impostor pairs accepted), TAR = 1 - FNMR (share of genuine pairs accepted).

Shape legend: P pairs, G genuine pairs, I impostor pairs, K distinct scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import FloatArray, as_float, as_identities, as_labels, check_finite

TarRule = Literal["strict", "nearest"]


@dataclass(frozen=True)
class RocCurve:
    """Receiver operating characteristic: one point per distinct score, from "nothing accepted" to "all accepted".

    Attributes:
        thresholds: descending [K + 1]; the first is infinity.
        far: false accept rate at each threshold [K + 1], 0 to 1.
        tar: true accept rate at each threshold [K + 1], 0 to 1.
        genuine, impostors: number of pairs behind it.
    """

    thresholds: NDArray[np.float64]
    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    genuine: int
    impostors: int


@dataclass(frozen=True)
class SortedScores:
    """Genuine [G] and impostor [I] scores, each ascending: the common input of every measure here.

    Attributes:
        genuine_identities, impostor_identities: identity of each side of each pair, [G, 2] and [I, 2], in the order of
            the scores; None: unknown. Intervals resample them.
    """

    genuine: FloatArray
    impostors: FloatArray
    genuine_identities: NDArray[Any] | None = None
    impostor_identities: NDArray[Any] | None = None

    @classmethod
    def of(cls, similarities: Any, labels: Any, identities: Any = None) -> SortedScores:
        """Split and sort similarities [P] by labels [P] (1 or True: same person).

        Args:
            identities: identity of each side of each pair, integers [P, 2]; None: only pairs are known.

        Raises:
            ValueError: shapes that do not match, scores that are not finite, labels other than 0 and 1, no genuine or
                no impostor pair.
        """
        scores = as_float(similarities, "similarities")
        same = as_labels(labels)
        if scores.shape != same.shape:
            raise ValueError(
                f"similarities has shape {list(scores.shape)}, labels {list(same.shape)}; both must be [P]"
            )
        check_finite(scores, "similarities")
        genuine, impostors = scores[same], scores[~same]
        for name, part in (("genuine (label 1)", genuine), ("impostor (label 0)", impostors)):
            if len(part) == 0:
                raise ValueError(f"labels holds no {name} pair: verification rates need pairs of both kinds")
        if identities is None:
            genuine.sort()
            impostors.sort()
            return cls(genuine, impostors)
        sides = as_identities(identities, len(scores))
        orders = [np.argsort(part) for part in (genuine, impostors)]
        return cls(genuine[orders[0]], impostors[orders[1]], sides[same][orders[0]], sides[~same][orders[1]])

    @cached_property
    def identities(self) -> int | None:
        """Number of identities on the pairs; None: unknown."""
        if self.genuine_identities is None or self.impostor_identities is None:
            return None
        return len(np.unique(np.concatenate([self.genuine_identities, self.impostor_identities])))

    @cached_property
    def auc(self) -> float:
        """Area under the ROC: chance that a genuine pair scores above an impostor pair, ties counting half."""
        below = np.searchsorted(self.impostors, self.genuine, side="left").sum(dtype=np.int64)
        not_above = np.searchsorted(self.impostors, self.genuine, side="right").sum(dtype=np.int64)
        return (int(below) + int(not_above)) / (2 * len(self.genuine) * len(self.impostors))

    @cached_property
    def eer(self) -> float:
        """Equal error rate: where the ROC, its points joined by straight lines, has FAR = 1 - TAR."""
        # The crossing point is the highest score at which FAR >= 1 - TAR; its neighbor is the next higher score.
        crossing = max(self._highest_crossing(self.genuine), self._highest_crossing(self.impostors))
        fmr, fnmr = self.errors(crossing)
        higher = []
        for part in (self.genuine, self.impostors):
            after = int(np.searchsorted(part, crossing, side="right"))
            if after < len(part):
                higher.append(part[after])
        fmr_before, fnmr_before = self.errors(min(higher)) if higher else (0.0, 1.0)
        return interpolate_eer(fmr_before, fnmr_before, fmr, fnmr)

    def strict_tar(self, fars: Any) -> NDArray[np.float64]:
        """Highest TAR with FAR at or below each target, float64 like `fars`."""
        rejected = self.impostors[::-1]
        allowed = allowed_false_accepts(fars, len(rejected))
        # One false accept more than allowed is the score that every accepted pair must exceed.
        limit = rejected[np.minimum(allowed, len(rejected) - 1)]
        accepted = len(self.genuine) - np.searchsorted(self.genuine, limit, side="right")
        return np.where(allowed >= len(rejected), 1.0, accepted / len(self.genuine))

    def nearest_tar(self, fars: Any) -> NDArray[np.float64]:
        """TAR at the ROC point whose FAR lies nearest to each target; see `tar_at_far`."""
        return self._nearest_points(fars)[1]

    def nearest_far(self, fars: Any) -> NDArray[np.float64]:
        """FAR of the points that `nearest_tar` reads."""
        return self._nearest_points(fars)[0]

    def _nearest_points(self, fars: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        curve = self.curve()
        false_accepts = np.rint(curve.far * curve.impostors).astype(np.int64)
        true_accepts = np.rint(curve.tar * curve.genuine).astype(np.int64)
        return nearest_point(false_accepts, true_accepts, np.asarray(fars))

    def tar(self, fars: Any, rule: TarRule = "strict") -> NDArray[np.float64]:
        """TAR at each target by one of the rules of `tar_at_far`."""
        if rule == "strict":
            return self.strict_tar(fars)
        if rule == "nearest":
            return self.nearest_tar(fars)
        raise ValueError(f'rule is {rule!r}; use "strict" or "nearest"')

    @cached_property
    def best_accuracy(self) -> float:
        """Highest share of pairs decided rightly by one threshold, chosen on these very pairs: biased upward."""
        curve = self.curve()
        right = np.rint(curve.tar * curve.genuine) + curve.impostors - np.rint(curve.far * curve.impostors)
        return float(right.max() / (curve.genuine + curve.impostors))

    def strict_threshold(self, fars: Any) -> NDArray[np.float64]:
        """Lowest threshold that keeps FAR at or below each target, float64 like `fars`.

        It lies one floating-point step above the impostor score that has to be rejected; -inf where all may pass.
        """
        rejected = self.impostors[::-1]
        allowed = allowed_false_accepts(fars, len(rejected))
        limit = rejected[np.minimum(allowed, len(rejected) - 1)]
        above = np.nextafter(limit, np.asarray(np.inf, dtype=limit.dtype)).astype(np.float64)
        return np.where(allowed >= len(rejected), -np.inf, above)

    def errors(self, threshold: float) -> tuple[float, float]:
        """(FMR, FNMR) when scores at or above `threshold` are accepted."""
        fmr = (len(self.impostors) - int(np.searchsorted(self.impostors, threshold, side="left"))) / len(self.impostors)
        fnmr = int(np.searchsorted(self.genuine, threshold, side="left")) / len(self.genuine)
        return fmr, fnmr

    def curve(self) -> RocCurve:
        """The whole ROC (memory: a few arrays of the number of pairs)."""
        distinct = np.unique(np.concatenate([self.genuine, self.impostors]))[::-1]
        far = (len(self.impostors) - np.searchsorted(self.impostors, distinct, side="left")) / len(self.impostors)
        tar = (len(self.genuine) - np.searchsorted(self.genuine, distinct, side="left")) / len(self.genuine)
        return RocCurve(
            thresholds=np.concatenate([[np.inf], distinct]),
            far=np.concatenate([[0.0], far]),
            tar=np.concatenate([[0.0], tar]),
            genuine=len(self.genuine),
            impostors=len(self.impostors),
        )

    def _highest_crossing(self, candidates: FloatArray) -> float:
        """Highest of the ascending candidates with FMR >= FNMR (their difference falls as the threshold rises)."""
        low, high = -1, len(candidates)
        while high - low > 1:
            middle = (low + high) // 2
            fmr, fnmr = self.errors(candidates[middle])
            low, high = (middle, high) if fmr >= fnmr else (low, middle)
        return candidates[low] if low >= 0 else -np.inf


def tar_at_far(
    similarities: Any, labels: Any, fars: Sequence[float] | Any, rule: TarRule = "strict"
) -> NDArray[np.float64]:
    """True accept rate at given false accept rates.

    Args:
        similarities: higher means more alike, [P].
        labels: 1 or True for the same person, [P].
        fars: target false accept rates, each in (0, 1].
        rule: "strict": the highest TAR whose FAR does not exceed the target. "nearest": TAR at the ROC point whose FAR
            lies nearest to the target, on either side; the rule behind the published UNPG and IJB tables, kept for
            comparison with them. It can report a TAR at a FAR above the target.

    Returns:
        TAR per target, 0 to 1, float64, shape of `fars`.

    Raises:
        ValueError: unknown rule, a FAR outside (0, 1], labels or scores that are not usable, only one kind of pair.
    """
    targets = check_fars(fars)
    return SortedScores.of(similarities, labels).tar(targets, rule)


def roc_curve(similarities: Any, labels: Any) -> RocCurve:
    """ROC of similarities [P] with labels [P]; see `RocCurve`."""
    return SortedScores.of(similarities, labels).curve()


def roc_auc(similarities: Any, labels: Any) -> float:
    """Area under the ROC, 0 to 1 (ties count half)."""
    return SortedScores.of(similarities, labels).auc


def equal_error_rate(similarities: Any, labels: Any) -> float:
    """Error rate at the threshold where false accepts and false rejects are equally frequent, 0 to 1."""
    return SortedScores.of(similarities, labels).eer


def fnmr_at_fmr(similarities: Any, labels: Any, fmr: float) -> float:
    """Lowest false non-match rate with the false match rate at or below `fmr` (0.01: FMR100, 0.001: FMR1000, 0:
    ZeroFMR)."""
    if not 0 <= fmr <= 1:
        raise ValueError(f"fmr is {fmr!r}; it must lie in [0, 1]")
    return 1 - float(SortedScores.of(similarities, labels).strict_tar(np.asarray(fmr)))


def minimum_measurable_far(labels: Any) -> float:
    """Smallest FAR these pairs can show: one false accept among the impostor pairs of `labels` [P]."""
    impostors = int((~as_labels(labels)).sum())
    if impostors == 0:
        raise ValueError("labels holds no impostor (label 0) pair, so no false accept rate can be measured")
    return 1 / impostors


def far_warnings(fars: Any, impostors: int, rule: TarRule = "strict", nearest: Any = None) -> list[str]:
    """One sentence for each target FAR that fewer than ten false accepts stand behind.

    Args:
        rule, nearest: of TAR at FAR; under the nearest rule the FARs of the points that were read, one per target.
    """
    messages = []
    for index, far in enumerate(np.atleast_1d(check_fars(fars))):
        allowed = int(allowed_false_accepts(far, impostors))
        if allowed == 0:
            shown = "the TAR shown is the one at zero false accepts"
            if rule == "nearest":
                read = "at another FAR" if nearest is None else f"at FAR {np.atleast_1d(nearest)[index]:.3g}"
                shown = f"the TAR shown is the one of the nearest point, {read}"
            messages.append(
                f"FAR {far:g} is below one of {impostors:,} impostor pairs (smallest measurable {1 / impostors:.2g}): "
                f"{shown}"
            )
        elif allowed < 10:
            messages.append(
                f"FAR {far:g} rests on {allowed} false accept(s) among {impostors:,} impostor pairs: unreliable"
            )
    return messages


def check_fars(fars: Any, zero: bool = False) -> NDArray[np.float64]:
    """`fars` as float64; ValueError when one lies outside (0, 1]. `zero` allows 0, "no false accept at all"."""
    targets = np.asarray(fars, dtype=np.float64)
    wrong = ~(((targets >= 0) if zero else (targets > 0)) & (targets <= 1))
    if wrong.any():
        raise ValueError(
            f"fars holds {np.atleast_1d(targets)[np.atleast_1d(wrong)][0]!r}; a false accept rate lies in (0, 1]"
        )
    return targets


def allowed_false_accepts(fars: Any, impostors: Any) -> Any:
    """Largest number of false accepts with FAR at or below each target (0.001 of 3,000 is 3, whatever the rounding)."""
    return np.floor(np.asarray(fars) * impostors * (1 + 1e-12)).astype(np.int64)


def interpolate_eer(fmr_before: Any, fnmr_before: Any, fmr: Any, fnmr: Any) -> Any:
    """Error rate where the line from a point with FMR < FNMR to one with FMR >= FNMR has FMR = FNMR."""
    gap_before, gap = fnmr_before - fmr_before, fmr - fnmr
    return fmr_before + (fmr - fmr_before) * gap_before / (gap_before + gap)


def nearest_point(
    false_accepts: NDArray[np.int64], true_accepts: NDArray[np.int64], targets: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """FAR and TAR of the ROC point nearest to each target FAR; counts ascend from 0 [K + 1], no two points are equal.

    The published code reads the curve of sklearn.metrics.roc_curve, which leaves out points in the middle of a straight
    run (a run of impostors without a genuine pair between them), so "nearest" means nearest among the remaining points.
    """
    corner = np.ones(len(false_accepts), dtype=bool)
    corner[2:-1] = (np.diff(false_accepts[1:], 2) != 0) | (np.diff(true_accepts[1:], 2) != 0)
    # From the top down: of equally near points the one with the larger FAR and TAR wins.
    far = false_accepts[corner][::-1] / false_accepts[-1]
    tar = true_accepts[corner][::-1] / true_accepts[-1]
    nearest = [int(np.argmin(np.abs(far - target))) for target in targets.ravel()]
    return far[nearest].reshape(targets.shape), tar[nearest].reshape(targets.shape)
