import numpy as np
import pytest

from facelib.evaluation import SortedScores, transfer_thresholds


def scored(seed, genuine=400, impostors=600, shift=1.5):
    rng = np.random.default_rng(seed)
    return SortedScores(np.sort(rng.normal(shift, 1, genuine)), np.sort(rng.normal(0, 1, impostors)))


def test_a_threshold_keeps_its_far_where_it_was_set():
    scores = scored(0)
    for point in transfer_thresholds(scores, scores, [0.1, 0.01], bootstrap=0):
        assert np.mean(scores.impostors >= point.threshold) <= point.far
        assert np.mean(scores.impostors >= point.threshold) > point.far - 1 / 600 - 1e-9
        assert 1 - point.fnmr == pytest.approx(scores.strict_tar([point.far])[0])


def test_on_another_set_it_is_the_same_threshold():
    calibration, applied = scored(0), scored(1, shift=0.5)
    (point,) = transfer_thresholds(calibration, applied, [0.05], bootstrap=0)
    assert point.fmr == np.mean(applied.impostors >= point.threshold)
    assert point.fnmr == np.mean(applied.genuine < point.threshold)
    assert point.accuracy == pytest.approx(
        (np.sum(applied.impostors < point.threshold) + np.sum(applied.genuine >= point.threshold)) / 1000
    )


def test_intervals_are_those_of_resampling_both_sets_by_hand():
    calibration, applied = scored(0, 60, 80), scored(1, 70, 90)
    (point,) = transfer_thresholds(calibration, applied, [0.1], bootstrap=4000)
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(2000):
        impostors = np.sort(rng.choice(calibration.impostors, 80))
        limit = impostors[-1 - 8]  # eight may pass; the ninth, and what equals it, must not
        other = rng.choice(applied.impostors, 90)
        rates.append(np.mean(other > limit))
    low, high = np.quantile(rates, [0.025, 0.975])
    assert point.intervals["fmr"].low == pytest.approx(low, abs=0.02)
    assert point.intervals["fmr"].high == pytest.approx(high, abs=0.02)
    assert point.intervals["accuracy"].low < point.accuracy < point.intervals["accuracy"].high


def test_targets_below_one_impostor_pair_have_no_threshold():
    assert [p.far for p in transfer_thresholds(scored(0), scored(1), [0.1, 1e-3, 1 / 600])] == [0.1, 1 / 600]
    with pytest.raises(ValueError, match="false accept rate"):
        transfer_thresholds(scored(0), scored(1), [0.0])
