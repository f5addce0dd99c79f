"""A threshold fixed on one set of pairs and applied to another: what a deployed system does.

The threshold keeps the FAR of the calibration set at or below a target (strict rule). Intervals resample both sets:
each resample of the calibration set has a threshold of its own, which is applied to a resample of the other set.

Shape legend: B resamples, F false accept rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.bootstrap import accepted_counts, strictly_accepted
from facelib.evaluation.report import plain_intervals
from facelib.evaluation.resampling import Counts, Interval, PairTable, Resampled, bin_edges, resample
from facelib.evaluation.roc import SortedScores, check_fars

MAX_BINS = 8192  # Of the calibration set's scores, between which resampled thresholds lie.


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
    drawn = _resampled_rates(calibration, applied, targets, bootstrap, seed) if bootstrap and len(targets) else None
    points = []
    for column, (far, threshold) in enumerate(zip(targets.tolist(), thresholds.tolist(), strict=True)):
        fmr, fnmr = applied.errors(threshold)
        rates = {"fmr": fmr, "fnmr": fnmr, "accuracy": float(_accuracy(applied, fmr, fnmr))}
        intervals = {}
        if drawn is not None:
            intervals = {name: samples[column].interval(rates[name]) for name, samples in drawn.items()}
        points.append(OperatingPoint(far, threshold, **rates, intervals=intervals))
    return points


def _resampled_rates(
    calibration: SortedScores, applied: SortedScores, targets: NDArray[np.float64], resamples: int, seed: int
) -> dict[str, Resampled]:
    """FMR, FNMR and accuracy [B, F] of resamples of `applied` at the thresholds of resamples of `calibration`."""
    edges = bin_edges(calibration, MAX_BINS)
    lowest = min(applied.genuine[0], applied.impostors[0], edges[0])
    # The bins of `applied` lie between possible thresholds, so that counts of them are exact.
    limits = np.unique(np.append(edges.astype(np.float64), lowest))
    skipped = len(limits) - len(edges)

    def measures(fixed: Counts, counts: Counts) -> tuple[NDArray[Any], ...]:
        accepted = strictly_accepted(accepted_counts(fixed[:, 0]), targets)
        # Where every bin of the calibration set is accepted there is no threshold.
        accepted = accepted + skipped * (accepted == len(edges))
        below = [np.take_along_axis(accepted_counts(counts[:, kind]), accepted, axis=1) for kind in (0, 1)]
        fmr, tar = (part / counts[:, kind].sum(axis=1)[:, None] for kind, part in enumerate(below))
        return fmr, 1 - tar, _accuracy(applied, fmr, 1 - tar)

    tables = [PairTable.of_scores(calibration, edges), PairTable.of_scores(applied, limits)]
    return dict(zip(("fmr", "fnmr", "accuracy"), resample(tables, measures, resamples, seed), strict=True))


def _accuracy(scores: SortedScores, fmr: Any, fnmr: Any) -> Any:
    genuine, impostors = len(scores.genuine), len(scores.impostors)
    return ((1 - fnmr) * genuine + (1 - fmr) * impostors) / (genuine + impostors)
