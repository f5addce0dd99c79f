"""One report per model and verification set: every measure with its confidence interval and the warnings it deserves.

Shape legend: P pairs, D embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from facelib.evaluation.arrays import pair_embeddings
from facelib.evaluation.bootstrap import bootstrap_best_accuracy, bootstrap_folds, bootstrap_sorted
from facelib.evaluation.resampling import Interval, describe_resampling, resampling_warnings
from facelib.evaluation.roc import SortedScores, TarRule, check_fars, far_warnings
from facelib.evaluation.verification import (
    AccuracyRule,
    kfold_from_distances,
    squared_distances,
    threshold_cells,
)
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# FMR100, FMR1000 and ZeroFMR: the false non-match rate at these false match rates.
FMR_POINTS = {"fmr100": 0.01, "fmr1000": 0.001, "zero_fmr": 0.0}


class Report(Protocol):
    """What a protocol measures of one model on one set."""

    @property
    def warnings(self) -> list[str]:
        """What a reader must know before trusting a number."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, as JSON takes them."""
        ...

    def metrics(self) -> dict[str, float]:
        """The few numbers worth following from run to run, by short names."""
        ...

    @staticmethod
    def tables(name: str, reports: Mapping[str, Any]) -> list[Table]:
        """Tables for the terminal, a row per model, of reports of this kind by model name."""
        ...


@dataclass(frozen=True)
class EvaluationOptions:
    """What is asked of every protocol.

    Attributes:
        fars: false accept rates that TAR (and thresholds) are reported at, each in (0, 1].
        rule: how TAR at FAR is read off the curve, "strict" or "nearest"; see `tar_at_far`.
        bootstrap: resamples behind the 95 % intervals; 0: none.
        seed: of the resampling.
        ranks, fpirs: of identification: ranks, and false positive identification rates in (0, 1).
        accuracy_rule: "kfold", or "best_threshold" chosen on the same pairs.
    """

    fars: tuple[float, ...] = DEFAULT_FARS
    rule: TarRule = "strict"
    bootstrap: int = 1000
    seed: int = 0
    ranks: tuple[int, ...] = (1, 5, 10)
    fpirs: tuple[float, ...] = (1e-1, 1e-2)
    accuracy_rule: AccuracyRule = "kfold"


@dataclass(frozen=True)
class VerificationReport:
    """Everything measured on one set of pairs. Rates are 0 to 1.

    Attributes:
        genuine, impostors: number of pairs of one person and of two people.
        identities: number of identities on them, which intervals resample; None: unknown, intervals resample pairs.
        auc: area under the ROC.
        eer: equal error rate.
        tar_at_far: TAR by target FAR.
        rule: "strict" (FAR never above the target) or "nearest"; see `tar_at_far`.
        fmr100, fmr1000, zero_fmr: false non-match rate at FMR at or below 1 %, 0.1 % and 0.
        minimum_measurable_far: 1 / impostors.
        accuracy, accuracy_std: k-fold accuracy, mean and standard deviation over folds; None without folds. By the
            rule "best_threshold" the accuracy at the threshold that is best on these pairs, without deviation.
        accuracy_rule: "kfold" or "best_threshold".
        fold_accuracies, fold_thresholds: per fold; empty without folds.
        intervals: confidence interval by measure: "accuracy", "auc", "eer", "fmr100", "fmr1000", "zero_fmr" and
            "tar@far=0.001" style; empty without bootstrap.
        warnings: what a reader must know before trusting a number.
    """

    genuine: int
    impostors: int
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    fmr100: float
    fmr1000: float
    zero_fmr: float
    minimum_measurable_far: float
    identities: int | None = None
    rule: str = "strict"
    accuracy: float | None = None
    accuracy_std: float | None = None
    fold_accuracies: list[float] = field(default_factory=list)
    fold_thresholds: list[float] = field(default_factory=list)
    accuracy_rule: str = "kfold"
    intervals: dict[str, Interval] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def resampling(self) -> str:
        """What the intervals rest on."""
        return describe_resampling(self.identities)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and strings, as JSON takes them (FARs become keys like "0.001")."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__} | {"resampling": self.resampling}
        plain["tar_at_far"] = {f"{far:g}": tar for far, tar in self.tar_at_far.items()}
        plain["intervals"] = plain_intervals(self.intervals)
        return plain

    def metrics(self) -> dict[str, float]:
        """AUC, EER, accuracy and the TARs."""
        found = {"auc": self.auc, "eer": self.eer}
        if self.accuracy is not None:
            found["accuracy"] = self.accuracy
        return found | {f"tar_at_far_{far:g}": tar for far, tar in self.tar_at_far.items()}

    @staticmethod
    def tables(name: str, reports: Mapping[str, VerificationReport]) -> list[Table]:
        """One table; see `results_tables`."""
        return [_set_table(name, reports)]


def evaluate_pairs(
    first: Any,
    second: Any,
    issame: Any,
    fars: Sequence[float] = DEFAULT_FARS,
    bootstrap: int = 1000,
    seed: int = 0,
    folds: int = 10,
    rule: TarRule = "strict",
    identities: Any = None,
    accuracy_rule: AccuracyRule = "kfold",
) -> VerificationReport:
    """Judge embeddings on the pairs of a verification set; similarity is the cosine.

    Args:
        first, second: embeddings of both pictures of each pair, [P, D]; with flip augmentation f(x) + f(flipped x).
        issame: 1 or True for the same person, [P].
        fars: target false accept rates in (0, 1].
        bootstrap: number of resamples behind the 95 % intervals; 0 leaves the intervals out.
        seed: of the resampling.
        folds: of the k-fold accuracy.
        rule: of TAR at FAR, see `tar_at_far`.
        identities: identity of each side of each pair, integers [P, 2], which is resampled; None: unknown.
        accuracy_rule: "kfold"; or "best_threshold": one threshold, the best on these very pairs, as in UNPG's tables.

    Raises:
        ValueError: shapes that do not match, values that are not finite, only one kind of pair, fewer pairs than folds.
    """
    first, second, same = pair_embeddings(first, second, issame)
    similarities = np.einsum("pd,pd->p", first, second)
    report = evaluate_scores(similarities, same, fars, bootstrap, seed, rule, identities)
    warnings = list(report.warnings)
    if not first.any() or np.ptp(similarities) < 1e-6:
        warnings.insert(0, "all pairs have the same similarity: the model has collapsed to one embedding")
    measured = {name: getattr(report, name) for name in report.__dataclass_fields__}
    measured.update(accuracy_rule=accuracy_rule, warnings=warnings)
    if accuracy_rule == "best_threshold":
        scores = SortedScores.of(similarities, same, identities)
        return with_best_accuracy(VerificationReport(**measured), scores, bootstrap, seed)
    distances = squared_distances(first, second)
    kfold = kfold_from_distances(distances, same, folds)
    measured.update(
        accuracy=kfold.accuracy,
        accuracy_std=kfold.std,
        fold_accuracies=kfold.fold_accuracies.tolist(),
        fold_thresholds=kfold.fold_thresholds.tolist(),
    )
    if bootstrap:
        samples = bootstrap_folds(threshold_cells(distances, same, folds), folds, bootstrap, seed, identities)
        measured["intervals"] = {"accuracy": samples.interval(kfold.accuracy)} | report.intervals
    return VerificationReport(**measured)


def with_best_accuracy(
    report: VerificationReport, scores: SortedScores, bootstrap: int = 1000, seed: int = 0
) -> VerificationReport:
    """A report of scores, with the accuracy at the one threshold that is best on them, which needs no folds."""
    accuracy, intervals = scores.best_accuracy, report.intervals
    if bootstrap:
        samples = bootstrap_best_accuracy(scores, bootstrap, seed)
        intervals = {"accuracy": samples.interval(accuracy)} | intervals
    return replace(report, accuracy=accuracy, accuracy_rule="best_threshold", intervals=intervals)


def evaluate_scores(
    similarities: Any,
    labels: Any,
    fars: Sequence[float] = DEFAULT_FARS,
    bootstrap: int = 1000,
    seed: int = 0,
    rule: TarRule = "strict",
    identities: Any = None,
) -> VerificationReport:
    """The same from similarities [P] alone, e.g. template scores of IJB: no k-fold accuracy.

    Raises:
        ValueError: shapes that do not match, scores that are not finite, only one kind of pair, a FAR outside (0, 1].
    """
    return evaluate_sorted(SortedScores.of(similarities, labels, identities), fars, bootstrap, seed, rule)


def evaluate_sorted(
    scores: SortedScores,
    fars: Sequence[float] = DEFAULT_FARS,
    bootstrap: int = 1000,
    seed: int = 0,
    rule: TarRule = "strict",
) -> VerificationReport:
    """`evaluate_scores` of scores that are split and sorted already."""
    targets = np.atleast_1d(check_fars(fars))
    tar = scores.tar(targets, rule)
    points = np.array(list(FMR_POINTS.values()))
    strict = scores.strict_tar(points)
    intervals = {}
    if bootstrap:
        samples = bootstrap_sorted(scores, np.concatenate([targets, points]), bootstrap, seed)
        intervals = {"auc": samples.auc.interval(scores.auc), "eer": samples.eer.interval(float(scores.eer))}
        for column, (name, value) in enumerate(zip(FMR_POINTS, strict, strict=True), start=len(targets)):
            intervals[name] = samples.tar[column].map(lambda rates: 1 - rates).interval(1 - value)
        if rule != "strict":
            samples = bootstrap_sorted(scores, targets, bootstrap, seed, rule=rule)
        for column, (far, value) in enumerate(zip(targets, tar, strict=True)):
            intervals[f"tar@far={far:g}"] = samples.tar[column].interval(value)
    genuine, impostors = len(scores.genuine), len(scores.impostors)
    nearest = scores.nearest_far(targets) if rule == "nearest" else None
    warnings = far_warnings(targets, impostors, rule, nearest)
    if bootstrap:
        warnings += resampling_warnings(scores.identities, genuine, impostors)
    return VerificationReport(
        genuine=genuine,
        impostors=impostors,
        identities=scores.identities,
        auc=scores.auc,
        eer=float(scores.eer),
        tar_at_far={float(far): float(value) for far, value in zip(targets, tar, strict=True)},
        **dict(zip(FMR_POINTS, (1 - strict).tolist(), strict=True)),
        minimum_measurable_far=1 / impostors,
        rule=rule,
        intervals=intervals,
        warnings=warnings,
    )


def plain_intervals(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Intervals as JSON takes them."""
    return {name: {"low": i.low, "high": i.high, "level": i.level} for name, i in intervals.items()}


def results_tables(results: Mapping[str, Mapping[str, Report]]) -> list[Table]:
    """Tables for the terminal, those of each set as its kind of report draws them, about 120 columns wide.

    Of verification: a row per model; TARs that rest on fewer than ten false accepts are dimmed, those below one
    impostor pair are marked with "*". Intervals of the TARs are in the report, not in the table.

    Args:
        results: reports by model name and set name, {model: {set: report}}.
    """
    names = dict.fromkeys(name for sets in results.values() for name in sets)
    tables: list[Table] = []
    for name in names:
        reports = {model: sets[name] for model, sets in results.items() if name in sets}
        tables += cast(Report, type(next(iter(reports.values())))).tables(name, reports)
    return tables


def _set_table(name: str, reports: Mapping[str, VerificationReport]) -> Table:
    require_extra("ray", "a results table", "rich")

    from rich.markup import escape
    from rich.table import Table

    first = next(iter(reports.values()))
    fars = sorted({far for report in reports.values() for far in report.tar_at_far}, reverse=True)
    table = Table(
        title=f"{escape(name)}: {first.genuine:,} genuine and {first.impostors:,} impostor pairs",
        caption=_caption(first),
    )
    table.add_column("model", no_wrap=True)
    for heading in ("accuracy %", "ROC-AUC", "EER %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for far in fars:
        table.add_column(f"TAR %\n@{far:g}", justify="right", no_wrap=True)
    for model, report in reports.items():
        accuracy = "-"
        if report.accuracy is not None:
            spread = "" if report.accuracy_std is None else f" ± {100 * report.accuracy_std:.2f}"
            accuracy = f"{100 * report.accuracy:.2f}{spread}"
        auc = f"{report.auc:.3f}" + bracket(report.intervals.get("auc"), 3)
        table.add_row(
            escape(model), accuracy, auc, f"{100 * report.eer:.1f}", *(_tar_cell(report, far) for far in fars)
        )
    return table


def _tar_cell(report: VerificationReport, far: float) -> str:
    if far not in report.tar_at_far:
        return "-"
    text = f"{100 * report.tar_at_far[far]:.1f}"
    if far < report.minimum_measurable_far * (1 - 1e-9):
        return f"[dim]{text}*[/dim]"
    return f"[dim]{text}[/dim]" if far * report.impostors < 10 else text


def _caption(report: VerificationReport) -> str:
    notes = [
        f"brackets: 95 % intervals, {report.resampling}",
        "dim: fewer than ten false accepts",
        "*: FAR below one impostor pair",
    ]
    if report.accuracy is not None and report.accuracy_rule == "best_threshold":
        notes.insert(0, "accuracy at the threshold that is best on these pairs")
    return "; ".join(["TAR at the nearest FAR, which may exceed the target"] * (report.rule == "nearest") + notes)


def bracket(interval: Interval | None, digits: int, factor: float = 1) -> str:
    """` [low, high]` for a table, empty without an interval."""
    if interval is None:
        return ""
    # The bracket is escaped: rich would take it for markup.
    return f" \\[{factor * interval.low:.{digits}f}, {factor * interval.high:.{digits}f}]"
