import json

import numpy as np
import pytest
from rich.console import Console

from facelib.evaluation import (
    equal_error_rate,
    evaluate_pairs,
    evaluate_scores,
    kfold_accuracy,
    results_tables,
    roc_auc,
    tar_at_far,
)


def embeddings(pairs=200, seed=0, noise=1.0):
    rng = np.random.default_rng(seed)
    same = np.arange(pairs) % 2 == 0
    first = rng.normal(size=(pairs, 16))
    second = np.where(same[:, None], first, 0) + noise * rng.normal(size=(pairs, 16))
    return first, second, same


def test_smallest_example():
    report = evaluate_pairs(*embeddings(), fars=[0.1], bootstrap=100)
    assert report.genuine == report.impostors == 100
    for name, value in (("accuracy", report.accuracy), ("auc", report.auc), ("tar@far=0.1", report.tar_at_far[0.1])):
        assert report.intervals[name].low <= value <= report.intervals[name].high


def test_holds_what_the_single_functions_compute():
    first, second, same = embeddings()
    report = evaluate_pairs(first, second, same, bootstrap=0)
    kfold = kfold_accuracy(first, second, same)
    cosines = np.sum(first * second, axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert (report.accuracy, report.accuracy_std) == (kfold.accuracy, kfold.std)
    assert report.fold_accuracies == kfold.fold_accuracies.tolist()
    assert report.auc == pytest.approx(roc_auc(cosines, same), abs=1e-12)
    assert report.eer == pytest.approx(equal_error_rate(cosines, same), abs=1e-12)
    np.testing.assert_allclose(list(report.tar_at_far.values()), tar_at_far(cosines, same, list(report.tar_at_far)))
    assert report.fmr100 == pytest.approx(1 - tar_at_far(cosines, same, [0.01])[0])
    assert report.intervals == {}


def test_every_rate_has_an_interval_and_the_nearest_rule_is_named():
    rng = np.random.default_rng(0)
    same = rng.random(4000) < 0.4
    scores = rng.normal(size=4000) + 2 * same
    strict, nearest = (evaluate_scores(scores, same, [0.1, 0.003], 300, rule=rule) for rule in ("strict", "nearest"))
    for report in (strict, nearest):
        values = {"auc": report.auc, "eer": report.eer, "fmr100": report.fmr100, "fmr1000": report.fmr1000}
        values |= {f"tar@far={far:g}": tar for far, tar in report.tar_at_far.items()}
        assert set(report.intervals) == {*values, "zero_fmr"}
        for name, value in values.items():
            assert report.intervals[name].low <= value <= report.intervals[name].high, name
        # The bootstrap never draws an impostor above the highest one: the interval lies at or below the value.
        assert report.intervals["zero_fmr"].high <= report.zero_fmr + 0.05
    assert nearest.tar_at_far[0.003] == tar_at_far(scores, same, [0.003], "nearest")[0]
    assert (strict.rule, nearest.to_dict()["rule"]) == ("strict", "nearest")
    (table,) = results_tables({"model": {"set": nearest}})
    assert "nearest FAR" in table.caption


def test_says_which_rates_the_pairs_cannot_show():
    report = evaluate_pairs(*embeddings(), fars=[0.2, 0.01, 1e-4], bootstrap=0)
    assert report.minimum_measurable_far == 0.01
    assert len(report.warnings) == 2
    assert "FAR 0.0001 is below one of 100 impostor pairs" in report.warnings[1]


def test_collapsed_model_is_named():
    report = evaluate_pairs(np.ones((20, 4)), np.ones((20, 4)), np.arange(20) % 2, fars=[0.5], bootstrap=10)
    assert "collapsed" in report.warnings[0]
    assert report.auc == 0.5


def test_to_dict_is_strict_json():
    report = evaluate_pairs(*embeddings(), bootstrap=20)
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert plain["tar_at_far"]["0.001"] == report.tar_at_far[1e-3]
    assert plain["intervals"]["auc"] == {
        "low": report.intervals["auc"].low,
        "high": report.intervals["auc"].high,
        "level": 0.95,
    }


def test_scores_alone_have_no_folds():
    first, second, same = embeddings()
    report = evaluate_scores(np.sum(first * second, axis=1).astype(np.float32), same, bootstrap=20)
    assert report.accuracy is None
    assert "accuracy" not in report.intervals
    assert json.dumps(report.to_dict())


def test_table_shows_every_model_and_set():
    report = evaluate_pairs(*embeddings(), fars=[0.1, 1e-4], bootstrap=50)
    scores = evaluate_scores([0.1, 0.9, 0.2], [0, 1, 0], fars=[0.1], bootstrap=0)
    console = Console(width=110, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for table in results_tables({"model [a]": {"LFW": report, "IJB": scores}, "b": {"LFW": report}}):
        console.print(table)
    text = console.export_text()
    assert text.count("model [a]") == 2
    assert text.count("LFW: ") == text.count("IJB: 1 genuine and 2 impostor pairs") == 1
    assert f"{100 * report.accuracy:.2f} ± {100 * report.accuracy_std:.2f}" in text
    assert f"{100 * report.tar_at_far[1e-4]:.1f}*" in text
    assert f"[{report.intervals['auc'].low:.3f}, {report.intervals['auc'].high:.3f}]" in text
    assert "…" not in text


def test_accuracy_at_the_best_threshold_of_the_same_pairs():
    """UNPG's rule for .bin sets: every threshold is tried on all pairs."""
    first, second, same = embeddings(noise=1.5)
    report = evaluate_pairs(first, second, same, fars=[0.1], bootstrap=200, accuracy_rule="best_threshold")
    cosines = np.sum(first * second, axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    assert report.accuracy == max(np.mean((cosines >= t) == same) for t in [*cosines, 2])
    assert report.accuracy > evaluate_pairs(first, second, same, bootstrap=0).accuracy
    assert (report.accuracy_std, report.fold_accuracies) == (None, [])
    assert report.intervals["accuracy"].low < report.accuracy
    assert report.intervals["accuracy"].high < 1
    assert report.to_dict()["accuracy_rule"] == "best_threshold"
    (table,) = results_tables({"model": {"set": report}})
    assert "best on these pairs" in table.caption
