"""Resampled identities against pairs repeated by hand, intervals against the spread of fresh samples."""

import numpy as np
import pytest
from support.embeddings import clustered_embeddings

from benchmarks.coverage import DESIGNS, MEASURES, Design, coverage, embed, population
from facelib.data.pairs import draw_pairs
from facelib.evaluation import SortedScores, compare_auc, equal_error_rate, kfold_accuracy, roc_auc, tar_at_far
from facelib.evaluation import resampling as module
from facelib.evaluation.bootstrap import bootstrap_kfold, bootstrap_sorted
from facelib.evaluation.resampling import (
    PairTable,
    Resampled,
    describe_resampling,
    expanded_tail,
    resample,
    resampling_warnings,
)

FARS = [0.2, 0.02]


def paired(identities=20, images=5, pairs=150, seed=0, noise=1.2):
    """Embeddings of both sides, labels and identities [P, 2]; scores rounded, so that some are equal."""
    vectors, numbers = clustered_embeddings(identities, images, noise, seed=seed)
    first, second, same = draw_pairs(numbers, pairs, seed)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.einsum("pd,pd->p", unit[first], unit[second]).round(2)
    return vectors[first], vectors[second], same, np.stack([numbers[first], numbers[second]], axis=1), scores


def weights_of_chunk(identities, seed, chunk=0):
    """Weights [P, 64] of the first draw, from the random numbers as documented: w_i, or w_i * w_j."""
    names, numbers = np.unique(identities, return_inverse=True)
    numbers = numbers.reshape(-1, 2)
    drawn = np.random.default_rng([seed, 0, chunk]).integers(0, len(names), (module.CHUNK, len(names)))
    times = np.stack([np.bincount(row, minlength=len(names)) for row in drawn], axis=1)
    first, second = times[numbers[:, 0]], times[numbers[:, 1]]
    return np.where((numbers[:, 0] == numbers[:, 1])[:, None], first, first * second)


def test_measures_of_resampled_identities_equal_those_of_pairs_repeated_by_hand():
    _, _, same, identities, scores = paired()
    drawn = bootstrap_sorted(SortedScores.of(scores, same, identities), FARS, resamples=30, seed=7)
    assert drawn.auc.values.shape == (30,)
    for column, times in enumerate(weights_of_chunk(identities, 7).T[:30]):
        repeated, labels = np.repeat(scores, times), np.repeat(same, times)
        assert drawn.auc.values[column] == pytest.approx(roc_auc(repeated, labels), abs=1e-12)
        assert drawn.eer.values[column] == pytest.approx(equal_error_rate(repeated, labels), abs=1e-12)
        np.testing.assert_allclose(drawn.tar.values[column], tar_at_far(repeated, labels, FARS))


def test_kfold_accuracy_of_resampled_identities():
    """Each class keeps its share of the pairs, the threshold of a fold is chosen on the others."""
    first, second, same, identities, _ = paired()
    drawn = bootstrap_kfold(first, second, same, folds=5, resamples=6, seed=3, identities=identities).values
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (first, second)]
    distances = np.sum((unit[0] - unit[1]) ** 2, axis=1)
    fold = np.repeat(np.arange(5), len(same) // 5)
    assert same.sum() == (~same).sum()
    for column, times in enumerate(weights_of_chunk(identities, 3).T[:6]):
        weights = times * np.where(same, times[~same].sum(), times[same].sum())
        right = 0
        for number in range(5):
            hits = (distances[:, None] < np.arange(0, 4, 0.01)) == same[:, None]
            others = weights[fold != number] @ hits[fold != number]
            right += weights[fold == number] @ hits[fold == number][:, np.argmax(others)]
        assert drawn[column] == pytest.approx(right / weights.sum(), abs=1e-12)


def test_a_pair_of_two_identities_is_kept_twice_or_not_at_all_with_all_its_images():
    _, _, same, identities, scores = paired(identities=8, images=6, pairs=200)
    table = PairTable.of_cells(np.arange(len(scores)), (2, len(scores)), identities)
    counts = next(table.draw_noise(64, [0, 0]))[:, 0]
    assert (counts[:, same] == 1).all()
    names = np.sort(identities, axis=1) @ [1000, 1]
    for name in np.unique(names[~same]):
        members = counts[:, names == name]
        assert set(np.unique(members)) <= {0, 2}
        assert (members == members[:, :1]).all()
    assert counts[:, ~same].mean() == pytest.approx(1, abs=0.1)
    # Different pairs are independent of each other.
    _, once = np.unique(names[~same], return_index=True)
    correlation = np.corrcoef(counts[:, ~same][:, once].T)
    assert np.abs(correlation[np.triu_indices(len(once), 1)]).mean() < 0.15


def test_the_interval_is_as_wide_as_fresh_identities_scatter():
    """20 identities behind 1,000 pairs: pairs alone promise far too much, the plain identity bootstrap too little."""
    design = Design("", 40, (6,), 400)
    estimates, corrected, plain, pairs = [], [], [], []
    for seed in range(60):
        models, numbers = embed(np.random.default_rng([seed, 1]), design.sizes())
        first, second, same = draw_pairs(numbers, design.pairs, seed)
        scores = np.einsum("pd,pd->p", models[0][first], models[0][second])
        known = SortedScores.of(scores, same, np.stack([numbers[first], numbers[second]], axis=1))
        drawn = bootstrap_sorted(known, [0.1], 128, seed).auc
        estimates.append(known.auc)
        plain.append(drawn.values.var())
        corrected.append(drawn.values.var() - 2 * drawn.pair_noise.var())
        pairs.append(bootstrap_sorted(SortedScores.of(scores, same), [0.1], 64, seed).auc.values.var())
    truth = np.std(estimates)
    assert np.sqrt(np.mean(corrected)) == pytest.approx(truth, rel=0.2)
    assert np.sqrt(np.mean(corrected)) < np.sqrt(np.mean(plain))
    assert np.sqrt(np.mean(pairs)) < 0.75 * truth


@pytest.mark.slow
def test_coverage_of_a_small_simulation():
    """The table of `benchmarks.coverage` in small: 95 % intervals hold the truth where the pairs alone do not."""
    design = Design("", 30, (12,), 600)
    truth = population(rounds=4)
    held = coverage(design, truth, repeats=40, resamples=64)
    alone = coverage(design, truth, repeats=40, resamples=64, known=False)
    auc, difference = MEASURES.index("AUC"), MEASURES.index("AUC difference")
    assert held[auc] >= 0.85
    assert held[difference] >= 0.85
    assert held.min() >= 0.8
    assert alone[auc] <= 0.8
    assert len(DESIGNS) == 5


def test_both_models_of_a_comparison_see_the_same_resamples():
    _, _, same, identities, scores = paired(pairs=150)
    identical = compare_auc(scores, scores, same, identities=identities)
    assert (identical.method, identical.interval.low, identical.interval.high) == ("identities", 0, 0)
    noisy = scores + 0.02 * np.random.default_rng(0).normal(size=len(scores))
    compared = compare_auc(scores, noisy, same, identities=identities)
    single = bootstrap_sorted(SortedScores.of(scores, same, identities), [0.1]).auc.interval(compared.auc_first)
    assert compared.interval.low <= compared.difference <= compared.interval.high
    assert compared.interval.high - compared.interval.low < 0.5 * (single.high - single.low)


def test_many_pairs_are_thinned_and_intervals_stay(monkeypatch):
    _, _, same, identities, scores = paired(identities=60, images=8, pairs=1500)
    known = SortedScores.of(scores, same, identities)
    whole = bootstrap_sorted(known, FARS, 300)
    monkeypatch.setattr(module, "MAX_PAIRS", 600)
    monkeypatch.setattr(module, "TOP_PAIRS", 200)
    rows, times = module._thinned(1500)
    assert (len(rows) <= 600, times.sum(), times[-200:].max()) == (True, 1500, 1)
    thin = bootstrap_sorted(known, FARS, 300)
    for name, estimate in (("auc", known.auc), ("eer", known.eer)):
        a, b = (getattr(samples, name).interval(estimate) for samples in (whole, thin))
        assert b.high - b.low == pytest.approx(a.high - a.low, rel=0.5)


def test_resamples_without_a_kind_of_pair_are_drawn_again():
    """Two identities: half of all draws holds one of them only."""
    scores = SortedScores.of([0.9, 0.8, 0.1], [1, 1, 0], np.array([[0, 0], [1, 1], [0, 1]]))
    drawn = bootstrap_sorted(scores, [0.5], 100)
    assert np.isfinite(drawn.auc.values).all()
    # Hardly any draw of 40 identities holds both of the one impostor pair and the one with a genuine pair: as measured.
    names = np.array([[0, 0], *[[i, i + 1] for i in range(1, 9, 2)]])
    table = PairTable.of_cells(np.arange(5), (10, 1), names, kinds=10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ATTEMPTS", 2)
        assert next(table.draw(64, [0, 0])).sum(axis=(1, 2)).min() >= 5


def test_interval_of_few_identities_is_wider_and_holds_the_estimate():
    assert expanded_tail(0.95) == pytest.approx(0.025)
    assert expanded_tail(0.95, 10_000) == pytest.approx(0.025, abs=1e-4)
    assert expanded_tail(0.95, 30) == pytest.approx(0.0187, abs=1e-4)
    values = np.random.default_rng(0).normal(size=4000)
    wide, narrow = (Resampled(values, 0 * values, n).interval(0.0) for n in (8, 8000))
    assert wide.high - wide.low > 1.25 * (narrow.high - narrow.low)
    # Noise of pairs as large as allowed: a third of the variance stays.
    least = Resampled(values, values, 8000).interval(0.0)
    assert least.high - least.low == pytest.approx((narrow.high - narrow.low) / np.sqrt(3))
    with pytest.raises(ValueError, match="resamples is 0"):
        resample([], lambda: [], 0, 0)


def test_effective_number_of_identities():
    equal = np.array([[i, i] for i in range(10)] * 2)
    assert PairTable.of_cells(np.zeros(20, int), (2, 1), equal).effective == pytest.approx(10)
    one_has_most = np.array([[0, 0]] * 90 + [[i, i] for i in range(1, 11)])
    table = PairTable.of_cells(np.zeros(100, int), (2, 1), one_has_most)
    assert (table.identities, table.effective) == (11, pytest.approx(100**2 / (90**2 + 10)))


def test_what_is_said_of_intervals():
    assert describe_resampling(1500) == "over 1,500 identities"
    assert describe_resampling(None) == "pairs only, identities unknown"
    assert resampling_warnings(20, 5, 5) == []
    assert "19 identities" in resampling_warnings(19, 5000, 5000)[0]
    assert resampling_warnings(None, 300, 300) == []
    genuine, impostor = resampling_warnings(None, 299, 10)
    assert "299 genuine pairs, fewer than 300" in genuine
    assert "10 impostor pairs" in impostor


def test_equal_seeds_give_equal_intervals_and_kfold_is_unchanged_by_identities():
    first, second, same, identities, scores = paired()
    known = SortedScores.of(scores, same, identities)
    one, two, other = (bootstrap_sorted(known, FARS, 100, seed).auc.values for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert known.identities == 20
    assert kfold_accuracy(first, second, same).accuracy > 0.5
    with pytest.raises(ValueError, match=r"identities must be whole numbers \[P, 2\] for 300 pairs"):
        SortedScores.of(scores, same, identities[:, 0])
