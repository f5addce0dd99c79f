"""One threshold, several groups of people: how unequally a model errs (RFW, Wang et al. 2019, and the like).

The threshold keeps the FMR of all groups' impostor pairs together at or below a target. The gaps are between the group
where a rate is highest and the one where it is lowest.

Shape legend: R groups, K bins, B resamples, F false accept rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.bootstrap import accepted_counts, strictly_accepted
from facelib.evaluation.report import EvaluationOptions, VerificationReport, bracket, evaluate_sorted, plain_intervals
from facelib.evaluation.resampling import (
    Counts,
    Interval,
    PairTable,
    Resampled,
    bin_edges,
    describe_resampling,
    resample,
)
from facelib.evaluation.roc import SortedScores, check_fars
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class GroupErrors:
    """Error rates of every group at one common threshold, 0 to 1.

    Attributes:
        far: target FMR over all groups together.
        threshold: similarity from which on a pair is accepted.
        fmr, fnmr: rates by group.
        fmr_gap, fnmr_gap: highest minus lowest rate of a group.
        fmr_ratio: highest divided by lowest FMR; None where a group has no false match.
        intervals: 95 % intervals of "fmr_gap", "fnmr_gap", and "fmr:<group>", "fnmr:<group>"; empty without bootstrap.
    """

    far: float
    threshold: float
    fmr: dict[str, float]
    fnmr: dict[str, float]
    fmr_gap: float
    fnmr_gap: float
    fmr_ratio: float | None
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass(frozen=True)
class GroupsReport:
    """Verification of several groups.

    Attributes:
        overall: all pairs together.
        groups: each group by itself, with k-fold accuracy where it was measured.
        errors: error rates at common thresholds, one entry for each measurable FAR.
        accuracy_std: standard deviation of the groups' accuracies; None without accuracies.
        skewed_error_ratio: highest over lowest error (1 - accuracy) of a group; None without accuracies, or where a
            group has no error.
        warnings: what a reader must know before trusting a number.
    """

    overall: VerificationReport
    groups: dict[str, VerificationReport]
    errors: list[GroupErrors]
    accuracy_std: float | None
    skewed_error_ratio: float | None
    warnings: list[str] = field(default_factory=list)

    @property
    def resampling(self) -> str:
        """What the intervals rest on."""
        return describe_resampling(self.overall.identities)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        errors = []
        for point in self.errors:
            plain = {name: getattr(point, name) for name in point.__dataclass_fields__}
            errors.append({**plain, "intervals": plain_intervals(point.intervals)})
        return {
            "overall": self.overall.to_dict(),
            "groups": {name: report.to_dict() for name, report in self.groups.items()},
            "errors": errors,
            "accuracy_std": self.accuracy_std,
            "skewed_error_ratio": self.skewed_error_ratio,
            "resampling": self.resampling,
            "warnings": self.warnings,
        }

    def metrics(self) -> dict[str, float]:
        """The overall measures, each group's AUC and accuracy, and the gaps."""
        found = self.overall.metrics()
        for name, report in self.groups.items():
            found |= {f"{name}/{key}": value for key, value in report.metrics().items() if key in ("auc", "accuracy")}
        for point in self.errors:
            found |= {f"fmr_gap_{point.far:g}": point.fmr_gap, f"fnmr_gap_{point.far:g}": point.fnmr_gap}
        return found

    @staticmethod
    def tables(name: str, reports: Mapping[str, GroupsReport]) -> list[Table]:
        """One table of all pairs, one of each group's, and one of the gaps."""
        require_extra("ray", "a results table", "rich")

        from rich.markup import escape
        from rich.table import Table

        tables = VerificationReport.tables(name, {model: report.overall for model, report in reports.items()})
        first = next(iter(reports.values()))
        for group in first.groups:
            tables += VerificationReport.tables(f"{name}, {group}", {m: r.groups[group] for m, r in reports.items()})
        gaps = Table(
            title=f"{escape(name)}: error rates of the groups at one threshold",
            caption=f"gap: highest minus lowest group; brackets: 95 % intervals, {first.resampling}",
        )
        for heading in ("model", "FMR", *(f"FMR / FNMR %\n{escape(group)}" for group in first.groups)):
            gaps.add_column(heading, no_wrap=True)
        gaps.add_column("FMR gap %", justify="right")
        gaps.add_column("FNMR gap %", justify="right")
        for model, report in reports.items():
            for point in report.errors:
                rates = [f"{100 * point.fmr[g]:.2f} / {100 * point.fnmr[g]:.1f}" for g in first.groups]
                widths = [
                    f"{100 * gap:.2f}" + bracket(point.intervals.get(key), 2, 100)
                    for gap, key in ((point.fmr_gap, "fmr_gap"), (point.fnmr_gap, "fnmr_gap"))
                ]
                gaps.add_row(escape(model), f"{point.far:g}", *rates, *widths)
        return [*tables, gaps]


def evaluate_groups(
    groups: Mapping[str, tuple[VerificationReport, SortedScores]], measures: EvaluationOptions
) -> GroupsReport:
    """Compare groups by their scores.

    Args:
        groups: each group's own report and its scores, by name.

    Raises:
        ValueError: fewer than two groups, or a FAR outside (0, 1].
    """
    if len(groups) < 2:
        raise ValueError(f"groups: {', '.join(groups) or 'none'}; comparing needs at least two")
    scores = {name: pair[1] for name, pair in groups.items()}
    everyone = _together(list(scores.values()))
    overall = evaluate_sorted(everyone, measures.fars, measures.bootstrap, measures.seed, measures.rule)
    targets = np.atleast_1d(check_fars(measures.fars))
    targets = targets[targets * len(everyone.impostors) >= 1 - 1e-9]
    drawn = _resampled_errors(scores, everyone, targets, measures) if measures.bootstrap and len(targets) else None
    errors = []
    for column, (far, threshold) in enumerate(zip(targets, everyone.strict_threshold(targets), strict=True)):
        rates = np.array([s.errors(threshold) for s in scores.values()])
        fmr, fnmr = rates[:, 0], rates[:, 1]
        errors.append(
            GroupErrors(
                far=float(far),
                threshold=float(threshold),
                fmr=dict(zip(scores, fmr.tolist(), strict=True)),
                fnmr=dict(zip(scores, fnmr.tolist(), strict=True)),
                fmr_gap=float(np.ptp(fmr)),
                fnmr_gap=float(np.ptp(fnmr)),
                fmr_ratio=float(fmr.max() / fmr.min()) if fmr.min() > 0 else None,
                intervals={} if drawn is None else _intervals([kind[column] for kind in drawn], rates.T, list(scores)),
            )
        )
    accuracies = [report.accuracy for report, _ in groups.values() if report.accuracy is not None]
    whole = len(accuracies) == len(groups)
    wrong = 1 - np.array(accuracies)
    return GroupsReport(
        overall=overall,
        groups={name: report for name, (report, _) in groups.items()},
        errors=errors,
        accuracy_std=float(np.std(accuracies)) if whole else None,
        skewed_error_ratio=float(wrong.max() / wrong.min()) if whole and wrong.min() > 0 else None,
        warnings=overall.warnings,
    )


def _together(groups: Sequence[SortedScores]) -> SortedScores:
    """The pairs of all groups, whose identities are different ones; unknown where those of any group are."""
    genuine = np.concatenate([s.genuine for s in groups])
    impostors = np.concatenate([s.impostors for s in groups])
    orders = np.argsort(genuine, kind="stable"), np.argsort(impostors, kind="stable")
    genuine, impostors = genuine[orders[0]], impostors[orders[1]]
    sides: list[list[NDArray[Any]]] = [[], []]
    used = 0
    for s in groups:
        if s.genuine_identities is None or s.impostor_identities is None:
            return SortedScores(genuine, impostors)
        sides[0].append(s.genuine_identities + used)
        sides[1].append(s.impostor_identities + used)
        used += int(max(s.genuine_identities.max(), s.impostor_identities.max())) + 1
    return SortedScores(genuine, impostors, *(np.concatenate(p)[o] for p, o in zip(sides, orders, strict=True)))


def _resampled_errors(
    scores: Mapping[str, SortedScores],
    everyone: SortedScores,
    targets: NDArray[np.float64],
    measures: EvaluationOptions,
) -> list[Resampled]:
    """FMR and FNMR of every group in every resample, the threshold chosen anew each time: [B, F, R] each."""
    edges = bin_edges(everyone, 8192)

    def rates(*groups: Counts) -> list[NDArray[Any]]:
        accepted = [[accepted_counts(counts[:, kind]) for kind in (0, 1)] for counts in groups]
        bins = strictly_accepted(np.sum([impostors for impostors, _ in accepted], axis=0), targets)
        shares = [[np.take_along_axis(part, bins, axis=1) / part[:, -1:] for part in group] for group in accepted]
        return [np.stack([fmr for fmr, _ in shares], axis=2), np.stack([1 - tar for _, tar in shares], axis=2)]

    tables = [PairTable.of_scores(s, edges) for s in scores.values()]
    return resample(tables, rates, measures.bootstrap, measures.seed)


def _intervals(drawn: Sequence[Resampled], rates: NDArray[np.float64], names: list[str]) -> dict[str, Interval]:
    """Intervals of the gaps and of each group's rates [2, R], from resampled rates [B, R] of each kind."""
    found = {}
    for kind, samples, values in zip(("fmr", "fnmr"), drawn, rates, strict=True):
        found[f"{kind}_gap"] = samples.map(lambda part: np.ptp(part, axis=1)).interval(float(np.ptp(values)))
        for number, name in enumerate(names):
            found[f"{kind}:{name}"] = samples[number].interval(values[number])
    return found
