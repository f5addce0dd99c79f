"""Gains over baselines, thresholds applied to other sets, metrics by name."""

import dataclasses

import numpy as np
import pytest

from facelib.evaluation.comparison import apply_thresholds, compare_with_baselines, named_metrics, summary_lines
from facelib.evaluation.protocols import EvaluationResult


class Numbers:
    """A report with one number."""

    warnings = ("few pairs",)

    def metrics(self):
        return {"auc": 0.5}


def result(shift, seed=0):
    rng = np.random.default_rng(seed)
    issame = np.arange(400) % 2 == 0
    return EvaluationResult(Numbers(), rng.normal(size=400) + shift * issame, issame)


@pytest.fixture
def results():
    """A trained model and a baseline on two sets with pairs; one set without pairs."""
    without = EvaluationResult(Numbers())
    return {
        "ssl": {"lfw": result(2), "cfp": result(1, 1), "search": without},
        "raw pixels": {"lfw": result(0.5), "cfp": result(0.5, 1), "search": without},
    }


def test_gains_of_trained_models_over_baselines(results):
    gains = compare_with_baselines(["ssl"], results, seed=0)
    assert list(gains) == ["ssl"]
    assert set(gains["ssl"]["raw pixels"]) == {"lfw", "cfp"}
    gain = gains["ssl"]["raw pixels"]["lfw"]
    assert 0 < gain["low"] < gain["difference"] < gain["high"]
    assert gain["resampling"] == "pairs only, identities unknown"


def test_gains_on_known_identities_resample_them(results):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 25, (400, 2))
    numbers[::2, 1] = numbers[::2, 0]
    numbers[1::2, 1] = (numbers[1::2, 0] + rng.integers(1, 25, 200)) % 25
    known = {name: {"lfw": dataclasses.replace(by_set["lfw"], identities=numbers)} for name, by_set in results.items()}
    gain = compare_with_baselines(["ssl"], known, seed=0)["ssl"]["raw pixels"]["lfw"]
    assert gain["resampling"] == "over 25 identities"
    assert gain["low"] < gain["difference"] < gain["high"]
    (line,) = [x for x in summary_lines(known, {"models": {}, "gains": {"ssl": {"raw pixels": {"lfw": gain}}},
                                                "thresholds": {}}, "") if "AUC" in x]  # fmt: skip
    assert line.endswith("], over 25 identities")


def test_thresholds_of_one_set_on_the_others(results):
    points = apply_thresholds(results, "lfw", [0.1], resamples=0, seed=0)
    assert {name: list(by_set) for name, by_set in points.items()} == {"ssl": ["cfp"], "raw pixels": ["cfp"]}
    assert points["ssl"]["cfp"][0]["far"] == 0.1
    with pytest.raises(ValueError, match=r"evaluate\.threshold_set: thresholds of 'search' apply to no other set"):
        apply_thresholds(results, "search", [0.1], resamples=0, seed=0)


def test_metrics_by_set_model_and_metric(results):
    assert named_metrics(results)["lfw/raw_pixels/auc"] == 0.5


def test_summary_lines(results):
    summary = {
        "models": {"ssl": {"training": {"epoch": 2, "loss": 0.5}}},
        "gains": compare_with_baselines(["ssl"], results, seed=0),
        "thresholds": apply_thresholds(results, "lfw", [0.1], resamples=0, seed=0),
    }
    lines = summary_lines(results, summary, "lfw")
    assert lines[0] == "ssl in training: epoch 2, loss 0.5"
    assert any(line.startswith("ssl − raw pixels on lfw: AUC +") for line in lines)
    assert any("(FAR 0.1 on lfw): FMR" in line for line in lines)
    assert lines[-3:] == [f"warning, {name}: few pairs" for name in ("lfw", "cfp", "search")]
