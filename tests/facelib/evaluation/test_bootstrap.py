import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from facelib.evaluation import bootstrap as module
from facelib.evaluation import (
    bootstrap_kfold,
    bootstrap_roc,
    compare_auc,
    equal_error_rate,
    kfold_accuracy,
    percentile_interval,
    roc_auc,
    tar_at_far,
)

FARS = [0.2, 0.05, 0.01]


def scores_and_labels(pairs=400, seed=0, decimals=3):
    rng = np.random.default_rng(seed)
    labels = rng.random(pairs) < 0.4
    return (rng.normal(size=pairs) + 1.2 * labels).round(decimals), labels


def resampled_by_index(scores, labels, resamples, seed):
    """The classical bootstrap: pairs drawn with replacement, every measure computed anew."""
    rng = np.random.default_rng(seed)
    genuine, impostors = scores[labels], scores[~labels]
    rows = []
    for _ in range(resamples):
        drawn = np.concatenate([rng.choice(genuine, len(genuine)), rng.choice(impostors, len(impostors))])
        same = np.arange(len(drawn)) < len(genuine)
        rows.append([roc_auc(drawn, same), equal_error_rate(drawn, same), *tar_at_far(drawn, same, FARS)])
    return np.array(rows)


def test_smallest_example():
    scores, labels = scores_and_labels()
    interval = percentile_interval(bootstrap_roc(scores, labels, [0.1], resamples=200).auc.values)
    assert interval.low < roc_auc(scores, labels) < interval.high
    assert interval.level == 0.95


@pytest.mark.parametrize("rule", ["strict", "nearest"])
def test_measures_of_a_resample_equal_the_plain_computation(rule):
    """Every row of counts must give what the measures give on the scores repeated that often."""
    scores, _ = scores_and_labels(pairs=120, decimals=1)
    values = np.unique(scores)
    rng = np.random.default_rng(1)
    genuine = rng.multinomial(50, np.full(len(values), 1 / len(values)), size=20)
    impostors = rng.multinomial(70, np.full(len(values), 1 / len(values)), size=20)
    auc, eer, tar, accepted = module._measures(genuine, impostors, np.array(FARS), rule)
    for row in range(20):
        drawn = np.concatenate([np.repeat(values, genuine[row]), np.repeat(values, impostors[row])])
        same = np.arange(len(drawn)) < 50
        assert auc[row] == pytest.approx(roc_auc_score(same, drawn), abs=1e-12)
        assert eer[row] == pytest.approx(equal_error_rate(drawn, same), abs=1e-12)
        np.testing.assert_allclose(tar[row], tar_at_far(drawn, same, FARS, rule))
        thresholds = np.append(values, np.inf)[len(values) - accepted[row]]
        for threshold, far in zip(thresholds, FARS, strict=True):
            assert (drawn[~same] >= threshold).mean() <= far
            lower = values[values < threshold]
            assert not len(lower) or (drawn[~same] >= lower[-1]).mean() > far


def test_distribution_equals_the_classical_bootstrap():
    scores, labels = scores_and_labels()
    fast = bootstrap_roc(scores, labels, FARS, resamples=2000, seed=1)
    slow = resampled_by_index(scores, labels, resamples=1000, seed=2)
    columns = np.column_stack([fast.auc.values, fast.eer.values, fast.tar.values])
    np.testing.assert_allclose(columns.mean(axis=0), slow.mean(axis=0), atol=5 * slow.std(axis=0).max() / np.sqrt(1000))
    np.testing.assert_allclose(columns.std(axis=0), slow.std(axis=0), rtol=0.15)


def test_binned_scores_give_the_intervals_of_exact_ones():
    scores, labels = scores_and_labels(pairs=6_000, decimals=12)
    exact = bootstrap_roc(scores, labels, [0.1, 2e-3], resamples=1000, max_bins=6_000)
    binned = bootstrap_roc(scores, labels, [0.1, 2e-3], resamples=1000, max_bins=1024)
    for name in ("auc", "eer"):
        a, b = getattr(exact, name).values, getattr(binned, name).values
        assert b.mean() == pytest.approx(a.mean(), abs=0.2 * a.std())
        assert b.std() == pytest.approx(a.std(), rel=0.2)
    tars = [samples.tar.values for samples in (exact, binned)]
    np.testing.assert_allclose(tars[1].mean(axis=0), tars[0].mean(axis=0), atol=0.3 * tars[0].std(axis=0).min())
    np.testing.assert_allclose(tars[1].std(axis=0), tars[0].std(axis=0), rtol=0.2)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    """Two normals 1.2 apart: the true AUC is Phi(1.2 / sqrt 2) = 0.8019."""
    hits = 0
    for seed in range(200):
        scores, labels = scores_and_labels(pairs=300, seed=seed, decimals=12)
        interval = percentile_interval(bootstrap_roc(scores, labels, [0.1], resamples=200, seed=seed).auc.values)
        hits += interval.low <= 0.80193 <= interval.high
    assert 176 <= hits <= 199


def test_equal_seeds_give_equal_samples_and_the_global_generator_is_left_alone():
    scores, labels = scores_and_labels()
    state = np.random.get_state()[1].copy()
    first, second, other = (bootstrap_roc(scores, labels, FARS, 20, seed=seed).auc.values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_kfold_distribution_equals_resampling_pairs_within_fold_and_label():
    rng = np.random.default_rng(0)
    same = np.arange(300) % 2 == 0
    first = rng.normal(size=(300, 8))
    second = np.where(same[:, None], first, 0) + 1.5 * rng.normal(size=(300, 8))
    fast = bootstrap_kfold(first, second, same, folds=5, resamples=1000).values
    slow = []
    strata = [np.flatnonzero((np.arange(300) // 60 == fold) & (same == label)) for fold in range(5) for label in (0, 1)]
    for _ in range(400):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata])
        slow.append(kfold_accuracy(first[drawn], second[drawn], same[drawn], folds=5).accuracy)
    assert fast.mean() == pytest.approx(np.mean(slow), abs=0.005)
    assert fast.std() == pytest.approx(np.std(slow), rel=0.2)


def test_compare_auc_uses_the_same_pairs_for_both():
    scores, labels = scores_and_labels(pairs=600, decimals=12)
    noise = 0.1 * np.random.default_rng(9).normal(size=600)
    comparison = compare_auc(scores, scores + noise, labels)
    assert comparison.method == "bootstrap"
    assert comparison.difference == pytest.approx(roc_auc(scores, labels) - roc_auc(scores + noise, labels))
    assert comparison.interval.low <= comparison.difference <= comparison.interval.high
    # Nearly the same model: far narrower than the interval of one AUC.
    single = percentile_interval(bootstrap_roc(scores, labels, [0.1]).auc.values)
    assert (comparison.interval.high - comparison.interval.low) < 0.3 * (single.high - single.low)
    identical = compare_auc(scores, scores, labels)
    assert (identical.difference, identical.interval.low, identical.interval.high) == (0, 0, 0)


def test_compare_auc_by_delong_agrees_with_the_bootstrap(monkeypatch):
    rng = np.random.default_rng(2)
    scores, labels = scores_and_labels(pairs=1500, decimals=1)
    other = (scores + 0.7 * rng.normal(size=1500)).round(1)
    sampled = compare_auc(scores, other, labels, resamples=2000)
    monkeypatch.setattr(module, "MAX_PAIRS_RESAMPLED", 100)
    normal = compare_auc(scores, other, labels)
    assert normal.method == "delong"
    assert normal.difference == sampled.difference
    width = sampled.interval.high - sampled.interval.low
    assert normal.interval.low == pytest.approx(sampled.interval.low, abs=0.1 * width)
    assert normal.interval.high == pytest.approx(sampled.interval.high, abs=0.1 * width)


def test_weighted_auc_of_repeated_pairs():
    scores, labels = scores_and_labels(pairs=80, decimals=1)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, 80)).astype(float)
    ranks = np.unique(scores, return_inverse=True)[1]
    for row, auc in zip(weights, module._weighted_auc(weights, ranks, labels), strict=True):
        times = row.astype(int)
        assert auc == pytest.approx(roc_auc_score(np.repeat(labels, times), np.repeat(scores, times)))


def test_refuses():
    scores, labels = scores_and_labels()
    with pytest.raises(ValueError, match="resamples is 0"):
        bootstrap_roc(scores, labels, FARS, resamples=0)
    with pytest.raises(ValueError, match="level is 95"):
        percentile_interval(np.arange(3.0), level=95)
    with pytest.raises(ValueError, match=r"scores_b has shape \[399\]"):
        compare_auc(scores, scores[1:], labels)
