from itertools import combinations

import numpy as np
import pytest

from facelib.data.pairs import draw_pairs
from facelib.evaluation import kfold_accuracy


def all_pairs(identities):
    """Brute force: the unordered pairs of one identity's images, and of two identities'."""
    pairs = list(combinations(range(len(identities)), 2))
    same = {frozenset(p) for p in pairs if identities[p[0]] == identities[p[1]]}
    return same, {frozenset(p) for p in pairs} - same


@pytest.mark.parametrize("pairs", [1, 7, 30, 59, 60, 1000])
def test_labels_are_right_and_no_pair_comes_twice(pairs):
    identities = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 4))
    first, second, issame = draw_pairs(identities, pairs, seed=1)
    genuine, impostor = all_pairs(identities)
    drawn = [frozenset(p) for p in zip(first.tolist(), second.tolist(), strict=True)]
    assert {p for p, s in zip(drawn, issame, strict=True) if s} <= genuine
    assert {p for p, s in zip(drawn, issame, strict=True) if not s} <= impostor
    assert len(set(drawn)) == len(drawn)
    assert issame.sum() == (~issame).sum() == min(pairs, len(genuine))


def test_genuine_pairs_are_spread_over_the_identities():
    identities = np.repeat(np.arange(6), [2, 3, 4, 5, 8, 20])
    first, _, issame = draw_pairs(identities, 40, seed=0)
    counts = np.bincount(identities[first[issame]], minlength=6)
    assert counts.sum() == 40
    # One pair, three and six are all that the first three have; the others share the rest.
    assert counts[:3].tolist() == [1, 3, 6]
    assert counts[3:].min() == 10
    assert np.bincount(identities[draw_pairs(identities, 4, seed=0)[0]], minlength=6).max() <= 8
    assert draw_pairs(identities, 4, seed=0)[2].sum() == 4


def test_every_tenth_holds_both_kinds():
    identities = np.repeat(np.arange(30), 5)
    first, second, issame = draw_pairs(identities, 200, seed=0)
    for tenth in np.array_split(issame, 10):
        assert 0 < tenth.mean() < 1
    perfect = np.eye(30)[identities]
    assert kfold_accuracy(perfect[first], perfect[second], issame).accuracy == 1.0
    rng = np.random.default_rng(0)
    chance = rng.normal(size=(len(identities), 16))
    assert 0.35 < kfold_accuracy(chance[first], chance[second], issame).accuracy < 0.65


def test_fewer_impostors_than_genuine_pairs_come_to_an_end():
    identities = np.array([0] * 12 + [1])
    first, second, issame = draw_pairs(identities, 1000, seed=0)
    assert issame.sum() == 66
    assert sorted({*first[~issame].tolist(), *second[~issame].tolist()}) == list(range(13))
    assert (~issame).sum() == 12
