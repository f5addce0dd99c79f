from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_curve

from facelib.evaluation import (
    equal_error_rate,
    evaluate_scores,
    far_warnings,
    fnmr_at_fmr,
    minimum_measurable_far,
    roc_auc,
    roc_curve,
    tar_at_far,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation.npz"
FARS = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]


def scores_and_labels(seed, pairs=300, decimals=None):
    rng = np.random.default_rng(seed)
    labels = rng.random(pairs) < 0.4
    scores = rng.normal(size=pairs) + 1.2 * labels
    return (scores if decimals is None else scores.round(decimals)), labels


def test_smallest_example():
    assert tar_at_far([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0], fars=[0.5]).tolist() == [1.0]
    assert tar_at_far([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0], fars=[0.1]).tolist() == [0.5]


def test_nearest_rule_equals_the_published_code():
    with np.load(GOLDEN) as golden:
        tar = tar_at_far(golden["roc/similarities"], golden["roc/labels"], FARS, rule="nearest")
        np.testing.assert_allclose(100 * tar, golden["roc/tar_percent_at_far"], atol=5e-5)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_nearest_rule_equals_the_published_procedure(seed, decimals):
    scores, labels = scores_and_labels(seed, decimals=decimals)
    far, tar, _ = sklearn_curve(labels, scores)
    far, tar = far[::-1], tar[::-1]
    expected = [tar[min(range(len(far)), key=lambda i: abs(far[i] - target))] for target in FARS]
    np.testing.assert_allclose(tar_at_far(scores, labels, FARS, rule="nearest"), expected)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_strict_rule_is_the_best_tar_with_far_not_above(seed, decimals):
    scores, labels = scores_and_labels(seed, decimals=decimals)
    far, tar, _ = sklearn_curve(labels, scores, drop_intermediate=False)
    targets = np.array([*FARS, 0.5, 1.0])
    expected = [tar[far <= target].max() for target in targets]
    np.testing.assert_allclose(tar_at_far(scores, labels, targets), expected)


def test_strict_rule_never_exceeds_the_target_where_nearest_does():
    scores = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    labels = [0, 1, 1, 0, 0, 0]
    assert tar_at_far(scores, labels, [0.2], rule="nearest").tolist() == [1.0]  # at FAR 0.25
    assert tar_at_far(scores, labels, [0.2], rule="strict").tolist() == [0.0]


def test_far_that_is_a_whole_number_of_pairs_is_reached_despite_rounding():
    for impostors in (1000, 3000, 7000, 11000):
        scores = np.concatenate([np.arange(impostors), [impostors - 3.5]])
        labels = np.arange(impostors + 1) == impostors
        # The genuine pair lies below 3 impostors.
        assert tar_at_far(scores, labels, [3 / impostors]) == [1.0]
        assert tar_at_far(scores, labels, [2.99 / impostors]) == [0.0]


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_sklearn(seed, decimals):
    scores, labels = scores_and_labels(seed, decimals=decimals)
    assert roc_auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1, 0])
@pytest.mark.parametrize("seed", range(5))
def test_eer_is_where_the_curve_meets_equal_errors(seed, decimals):
    scores, labels = scores_and_labels(seed, decimals=decimals)
    far, tar, _ = sklearn_curve(labels, scores, drop_intermediate=False)
    dense = np.linspace(0, 1, 200_001)
    # The curve as a function of position along it, so that vertical steps are lines too.
    position = np.linspace(0, 1, len(far))
    gap = np.interp(dense, position, far) - (1 - np.interp(dense, position, tar))
    expected = np.interp(dense[np.argmin(np.abs(gap))], position, far)
    assert equal_error_rate(scores, labels) == pytest.approx(expected, abs=1e-3)


def test_separable_reversed_and_constant_scores():
    labels = np.array([1, 1, 0, 0])
    assert equal_error_rate([4, 3, 2, 1], labels) == 0.0
    assert equal_error_rate([1, 2, 3, 4], labels) == 1.0
    assert equal_error_rate([1, 1, 1, 1], labels) == 0.5
    assert roc_auc([1, 1, 1, 1], labels) == 0.5
    assert tar_at_far([1, 1, 1, 1], labels, [0.5]) == [0.0]


@pytest.mark.parametrize("decimals", [None, 0])
def test_curve_equals_sklearn(decimals):
    scores, labels = scores_and_labels(3, decimals=decimals)
    far, tar, thresholds = sklearn_curve(labels, scores, drop_intermediate=False)
    curve = roc_curve(scores, labels)
    np.testing.assert_allclose(curve.far, far)
    np.testing.assert_allclose(curve.tar, tar)
    np.testing.assert_array_equal(curve.thresholds, thresholds)


def test_fnmr_at_fixed_fmr():
    scores = np.concatenate([np.arange(1000), [998.5, 989.5, 100.5, 2000]])
    labels = np.arange(1004) >= 1000
    assert fnmr_at_fmr(scores, labels, 0.01) == 0.25  # ten impostors above 989.5
    assert fnmr_at_fmr(scores, labels, 0.001) == 0.5
    assert fnmr_at_fmr(scores, labels, 0) == 0.75


def test_far_below_one_impostor_pair_is_flagged():
    assert minimum_measurable_far([1, 0, 0, 0, 0]) == 0.25
    messages = far_warnings([0.1, 1e-3, 1e-4, 1e-5], impostors=1000)
    assert len(messages) == 3
    assert "FAR 0.001 rests on 1 false accept" in messages[0]
    assert "FAR 0.0001 is below one of 1,000 impostor pairs" in messages[1]


def test_float32_scores_are_not_copied_to_float64_and_agree():
    scores, labels = scores_and_labels(0, pairs=5000)
    low = scores.astype(np.float32)
    np.testing.assert_array_equal(tar_at_far(low, labels, FARS), tar_at_far(low.astype(np.float64), labels, FARS))


@pytest.mark.parametrize(
    ("scores", "labels", "fars", "rule", "message"),
    [
        ([1.0, 2.0], [1, 1], [0.1], "strict", "no impostor"),
        ([1.0, 2.0], [0, 0], [0.1], "strict", "no genuine"),
        ([1.0, np.nan], [0, 1], [0.1], "strict", r"similarities\[1\]"),
        ([1.0, 2.0, 3.0], [0, 1], [0.1], "strict", r"\[3\], labels \[2\]"),
        ([1.0, 2.0], [0, 1], [0.0], "strict", r"fars holds .*0.0"),
        ([1.0, 2.0], [0, 1], [1.5], "strict", "1.5"),
        ([1.0, 2.0], [0, 1], [0.1], "closest", "closest"),
        ([1.0, 2.0], [-1, 1], [0.1], "strict", r"labels\[0\]"),
    ],
)
def test_refuses(scores, labels, fars, rule, message):
    with pytest.raises(ValueError, match=message):
        tar_at_far(scores, labels, fars, rule)


def test_warning_of_a_far_that_is_too_small_says_which_point_was_read():
    """20 impostor pairs; the point nearest to FAR 0.04 has one false accept, none at 0.01."""
    labels = np.arange(40) < 20
    scores = np.concatenate([np.linspace(0.5, 1, 20), np.linspace(0, 0.9, 20)])
    (strict,) = evaluate_scores(scores, labels, [0.04], bootstrap=0).warnings
    assert strict.endswith("the TAR shown is the one at zero false accepts")
    nearest = evaluate_scores(scores, labels, [0.04, 0.01], bootstrap=0, rule="nearest")
    assert nearest.warnings[0].endswith("the TAR shown is the one of the nearest point, at FAR 0.05")
    assert nearest.warnings[1].endswith("the TAR shown is the one of the nearest point, at FAR 0")
    assert nearest.tar_at_far[0.04] == np.mean(scores[labels] > scores[-2])
    assert nearest.tar_at_far[0.01] == np.mean(scores[labels] > 0.9)
