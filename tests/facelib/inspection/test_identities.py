"""Separability of identities against slow and obvious counts."""

import numpy as np
import pytest
from support.embeddings import clustered_embeddings

from facelib.evaluation import roc_auc
from facelib.inspection import (
    inspect_identities,
)


def test_smallest_example():
    report = inspect_identities(*clustered_embeddings())
    assert report.identities == 12
    assert report.auc > 0.99
    assert report.rank1 > 0.95
    assert report.genuine > report.impostor


def test_against_every_pair():
    vectors, numbers = clustered_embeddings(noise=1.2)
    report = inspect_identities(vectors, numbers, pairs=100_000)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), 1)
    scores, same = (unit[first] * unit[second]).sum(1), numbers[first] == numbers[second]
    assert report.auc == pytest.approx(roc_auc(scores, same), abs=0.06)
    assert report.genuine == pytest.approx(scores[same].mean(), abs=0.06)
    hits = 0
    for i, vector in enumerate(unit):
        others = {n: unit[(numbers == n) & (np.arange(len(unit)) != i)].sum(0) for n in np.unique(numbers)}
        cosines = {n: vector @ s / np.linalg.norm(s) for n, s in others.items()}
        hits += max(cosines, key=cosines.get) == numbers[i]
    assert report.rank1 == pytest.approx(hits / len(unit))
    means = np.stack([unit[numbers == n].mean(0) for n in np.unique(numbers)])
    within = sum(((unit[numbers == n] - m) ** 2).sum() for n, m in zip(np.unique(numbers), means, strict=True))
    assert report.identity_share == pytest.approx(1 - within / ((unit - unit.mean(0)) ** 2).sum(), abs=1e-5)
    a, b, similarity = report.lookalikes[0]
    center = {n: m / np.linalg.norm(m) for n, m in zip(np.unique(numbers), means, strict=True)}
    pairs = {(p, q): center[p] @ center[q] for p in center for q in center if p < q}
    assert (a, b) == max(pairs, key=pairs.get)
    assert similarity == pytest.approx(max(pairs.values()), abs=1e-5)


def test_one_family_fills_few_dimensions():
    wide, numbers = clustered_embeddings(identities=200, size=32)
    narrow = wide * np.r_[np.ones(3), np.full(29, 0.05)]
    assert inspect_identities(wide, numbers).dimensions > 20 > 5 > inspect_identities(narrow, numbers).dimensions


def test_identities_that_cannot_be_judged():
    with pytest.raises(ValueError, match="two identities with two pictures"):
        inspect_identities(np.eye(4), [1, 1, 2, 3])
    with pytest.raises(ValueError, match=r"\[4, 4\] and identities \[3\]"):
        inspect_identities(np.eye(4), [1, 1, 2])
