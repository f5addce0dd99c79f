"""Several models on several sets: gains over baselines, thresholds of one set applied to others, metrics by name.

Results are given by model name, then set name; models in the order of the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from facelib.evaluation.bootstrap import compare_auc
from facelib.evaluation.operating_points import transfer_thresholds
from facelib.evaluation.protocols.base import EvaluationResult
from facelib.evaluation.resampling import describe_resampling

Results = Mapping[str, Mapping[str, EvaluationResult]]


def compare_with_baselines(trained: Sequence[str], results: Results, seed: int) -> dict[str, Any]:
    """ROC-AUC of each trained model minus that of each baseline on the same pairs, with a paired 95 % interval.

    Args:
        trained: names of the models that are compared; all others are baselines.
        seed: of the bootstrap.

    Returns:
        {model: {baseline: {set: {difference, low, high, resampling}}}}, for sets that have pairs.
    """
    gains: dict[str, Any] = {}
    for name in trained:
        for baseline in (other for other in results if other not in trained):
            for set_name, ours in results[name].items():
                theirs = results[baseline].get(set_name)
                if theirs is None or ours.similarities is None:
                    continue
                compared = compare_auc(
                    ours.similarities, theirs.similarities, ours.issame, seed=seed, identities=ours.identities
                )
                scores = ours.scores
                gains.setdefault(name, {}).setdefault(baseline, {})[set_name] = {
                    "difference": compared.difference,
                    "low": compared.interval.low,
                    "high": compared.interval.high,
                    "resampling": describe_resampling(scores.identities if scores else None),
                }
    return gains


def apply_thresholds(
    results: Results, threshold_set: str, fars: Sequence[float], resamples: int, seed: int
) -> dict[str, Any]:
    """Error rates on every other set at the thresholds that give `fars` on `threshold_set`.

    Args:
        resamples: of the bootstrap for intervals (0: none).

    Returns:
        {model: {set: [point, ...]}}, see `transfer_thresholds`.

    Raises:
        ValueError: `threshold_set` or all other sets have no pairs.
    """
    points: dict[str, Any] = {}
    for name, by_set in results.items():
        calibration = by_set[threshold_set].scores if threshold_set in by_set else None
        if calibration is None:
            continue
        for set_name, result in by_set.items():
            scores = result.scores
            if set_name != threshold_set and scores is not None:
                transferred = transfer_thresholds(calibration, scores, fars, resamples, seed)
                points.setdefault(name, {})[set_name] = [point.to_dict() for point in transferred]
    if not points:
        names = dict.fromkeys(set_name for by_set in results.values() for set_name in by_set)
        raise ValueError(
            f"evaluate.threshold_set: thresholds of {threshold_set!r} apply to no other set; the sets are "
            f"{', '.join(names)}, and both need pairs"
        )
    return points


def named_metrics(results: Results) -> dict[str, float]:
    """Every number of every report, by `set/model/metric`; spaces of model names become `_`."""
    return {
        f"{set_name}/{name.replace(' ', '_')}/{metric}": value
        for name, by_set in results.items()
        for set_name, result in by_set.items()
        for metric, value in result.report.metrics().items()
    }


def interval_tags(results: Results) -> dict[str, str]:
    """What the intervals on each set rest on, by set; sets whose reports do not say it are left out."""
    return {
        set_name: resampling
        for by_set in results.values()
        for set_name, result in by_set.items()
        if (resampling := getattr(result.report, "resampling", ""))
    }


def summary_lines(results: Results, summary: Mapping[str, Any], threshold_set: str) -> list[str]:
    """Lines printed below the tables: training accuracies, gains, transferred thresholds and warnings.

    Args:
        summary: `models` (with their `training`), `gains` and `thresholds`, as in results.json.
    """
    lines = []
    for name, model in summary["models"].items():
        if model["training"]:
            numbers = ", ".join(f"{key.replace('_', ' ')} {value:.4g}" for key, value in model["training"].items())
            lines.append(f"{name} in training: {numbers}")
    for name, baselines in summary["gains"].items():
        for baseline, by_set in baselines.items():
            for set_name, gain in by_set.items():
                interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}], {gain['resampling']}"
                lines.append(f"{name} − {baseline} on {set_name}: AUC {gain['difference']:+.4f} {interval}")
    for name, by_set in summary["thresholds"].items():
        for set_name, points in by_set.items():
            lines += [
                f"{name} on {set_name}, threshold {p['threshold']:.4f} (FAR {p['far']:g} on {threshold_set}): "
                f"FMR {p['fmr']:.3g}, FNMR {p['fnmr']:.3g}, accuracy {p['accuracy']:.4f}"
                for p in points
            ]
    warnings = [(s, w) for by_set in results.values() for s, result in by_set.items() for w in result.report.warnings]
    return lines + [f"warning, {set_name}: {warning}" for set_name, warning in dict.fromkeys(warnings)]
