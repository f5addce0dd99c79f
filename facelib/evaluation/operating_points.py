"""A threshold fixed on one set of pairs and applied to another: what a deployed system does.

The threshold keeps the FAR of the calibration set at or below a target (strict rule). Intervals resample the pairs of
both sets: each resample of the calibration set has a threshold of its own, and given a threshold the number of pairs
accepted in a resample of the other set is binomial, so no scores have to be drawn.

Shape legend: B resamples, F false accept rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facelib.evaluation.arrays import FloatArray
from facelib.evaluation.bootstrap import Interval, bootstrap_sorted, percentile_interval
from facelib.evaluation.report import plain_intervals
from facelib.evaluation.roc import SortedScores, check_fars


@dataclass(frozen=True)
class OperatingPoint:
    """Error rates at one fixed threshold, 0 to 1.

    Attributes:
        far: the target that the threshold was chosen for.
        threshold: pairs with this similarity or more are accepted.
        fmr, fnmr: on the set it is applied to.
        accuracy: share of its pairs decided rightly.
        intervals: 95 % intervals of "fmr", "fnmr" and "accuracy"; empty without bootstrap.
    """

    far: float
    threshold: float
    fmr: float
    fnmr: float
    accuracy: float
    intervals: dict[str, Interval] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **{name: getattr(self, name) for name in ("far", "threshold", "fmr", "fnmr", "accuracy")},
            "intervals": plain_intervals(self.intervals),
        }


def transfer_thresholds(
    calibration: SortedScores, applied: SortedScores, fars: Sequence[float], bootstrap: int = 1000, seed: int = 0
) -> list[OperatingPoint]:
    """Thresholds that keep each FAR on `calibration`, and what errors they make on `applied`.

    Targets below one impostor pair of the calibration set are left out: no threshold can be set for them.

    Raises:
        ValueError: a FAR outside (0, 1].
    """
    targets = np.atleast_1d(check_fars(fars))
    targets = targets[targets * len(calibration.impostors) >= 1 - 1e-9]
    thresholds = calibration.strict_threshold(targets)
    drawn = bootstrap_sorted(calibration, targets, bootstrap, seed).thresholds if bootstrap and len(targets) else None
    rng = np.random.default_rng([seed, 1])
    points = []
    for column, (far, threshold) in enumerate(zip(targets.tolist(), thresholds.tolist(), strict=True)):
        fmr, fnmr = applied.errors(threshold)
        intervals = {}
        if drawn is not None:
            fmrs = _resampled(rng, applied.impostors, drawn[:, column])
            fnmrs = 1 - _resampled(rng, applied.genuine, drawn[:, column])
            samples = {"fmr": fmrs, "fnmr": fnmrs, "accuracy": _accuracy(applied, fmrs, fnmrs)}
            intervals = {name: percentile_interval(values) for name, values in samples.items()}
        points.append(OperatingPoint(far, threshold, fmr, fnmr, float(_accuracy(applied, fmr, fnmr)), intervals))
    return points


def _resampled(rng: np.random.Generator, scores: FloatArray, thresholds: FloatArray) -> Any:
    """Share of resampled scores accepted at each threshold, [B]."""
    accepted = len(scores) - np.searchsorted(scores, thresholds, side="left")
    return rng.binomial(len(scores), accepted / len(scores)) / len(scores)


def _accuracy(scores: SortedScores, fmr: Any, fnmr: Any) -> Any:
    genuine, impostors = len(scores.genuine), len(scores.impostors)
    return ((1 - fnmr) * genuine + (1 - fmr) * impostors) / (genuine + impostors)
