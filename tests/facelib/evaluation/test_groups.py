import numpy as np
import pytest

from facelib.evaluation import EvaluationOptions, SortedScores, evaluate_groups, evaluate_scores, results_tables


def group(seed, shift, impostor_shift=0.0, pairs=500):
    rng = np.random.default_rng(seed)
    genuine, impostors = rng.normal(shift, 1, pairs), rng.normal(impostor_shift, 1, pairs)
    scores, labels = np.concatenate([genuine, impostors]), np.arange(2 * pairs) < pairs
    return evaluate_scores(scores, labels, bootstrap=0), SortedScores.of(scores, labels)


def test_rates_at_one_threshold_and_their_gaps():
    groups = {"north": group(0, 2.0), "south": group(1, 1.5, 0.4), "west": group(2, 2.0)}
    report = evaluate_groups(groups, EvaluationOptions(fars=(0.1, 0.01, 1e-4), bootstrap=0))
    assert [point.far for point in report.errors] == [0.1, 0.01]  # 1,500 impostor pairs cannot show 1e-4
    impostors = np.concatenate([s.impostors for _, s in groups.values()])
    for point in report.errors:
        assert np.mean(impostors >= point.threshold) <= point.far
        for name, (_, scores) in groups.items():
            assert point.fmr[name] == np.mean(scores.impostors >= point.threshold)
            assert point.fnmr[name] == np.mean(scores.genuine < point.threshold)
        assert point.fmr_gap == max(point.fmr.values()) - min(point.fmr.values())
        lowest = min(point.fmr.values())
        assert point.fmr_ratio == (max(point.fmr.values()) / lowest if lowest else None)
        assert max(point.fmr, key=point.fmr.get) == "south"
    assert report.overall.impostors == 1500
    assert report.accuracy_std is None


def test_intervals_are_those_of_resampling_every_group_by_hand():
    groups = {"a": group(0, 1.0, pairs=60), "b": group(1, 1.0, 0.8, pairs=80)}
    measures = EvaluationOptions(fars=(0.2,), bootstrap=3000)
    (point,) = evaluate_groups(groups, measures).errors
    rng = np.random.default_rng(3)
    gaps = []
    for _ in range(2000):
        drawn = [rng.choice(s.impostors, len(s.impostors)) for _, s in groups.values()]
        limit = np.sort(np.concatenate(drawn))[-1 - 28]  # 28 of 140 may pass
        gaps.append(np.ptp([np.mean(scores > limit) for scores in drawn]))
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert point.intervals["fmr_gap"].low == pytest.approx(low, abs=0.02)
    assert point.intervals["fmr_gap"].high == pytest.approx(high, abs=0.02)
    for name in groups:
        for kind, rates in (("fmr", point.fmr), ("fnmr", point.fnmr)):
            interval = point.intervals[f"{kind}:{name}"]
            assert interval.low <= rates[name] <= interval.high


def test_a_report_is_json_tables_and_metrics():
    groups = {"a": group(0, 2.0), "b": group(1, 2.0)}
    report = evaluate_groups(groups, EvaluationOptions(fars=(0.1,), bootstrap=20))
    assert set(report.to_dict()) == {
        "overall", "groups", "errors", "accuracy_std", "skewed_error_ratio", "resampling", "warnings"
    }  # fmt: skip
    assert report.resampling == "pairs only, identities unknown"
    assert {"auc", "a/auc", "b/auc", "fmr_gap_0.1", "fnmr_gap_0.1"} <= set(report.metrics())
    tables = results_tables({"model": {"rfw": report}})
    assert [t.row_count for t in tables] == [1, 1, 1, 1]  # all, a, b, gaps


def test_one_group_cannot_be_compared():
    with pytest.raises(ValueError, match="groups: a; comparing needs at least two"):
        evaluate_groups({"a": group(0, 1.0)}, EvaluationOptions())


def test_identities_of_groups_are_resampled_within_each_group():
    rng = np.random.default_rng(0)
    groups = {}
    for name in ("a", "b"):
        hard = 0.8 * rng.normal(size=15)  # Each identity has its own difficulty.
        numbers = rng.integers(0, 15, (600, 2))
        numbers[:300, 1] = numbers[:300, 0]
        labels = numbers[:, 0] == numbers[:, 1]
        scores = rng.normal(size=600) * 0.3 + 2 * labels + hard[numbers].mean(axis=1)
        groups[name] = evaluate_scores(scores, labels, bootstrap=0), SortedScores.of(scores, labels, numbers)
    measures = EvaluationOptions(fars=(0.05,), bootstrap=300)
    known = evaluate_groups(groups, measures)
    unknown = evaluate_groups(
        {name: (report, SortedScores(s.genuine, s.impostors)) for name, (report, s) in groups.items()}, measures
    )
    assert known.overall.identities == 30
    assert known.overall.auc == unknown.overall.auc
    for key in ("fnmr:a", "fnmr_gap"):
        widths = [
            report.errors[0].intervals[key].high - report.errors[0].intervals[key].low for report in (known, unknown)
        ]
        assert widths[0] > 1.2 * widths[1]
