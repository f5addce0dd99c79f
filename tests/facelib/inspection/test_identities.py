"""Separability, repeats and spreads against slow and obvious counts."""

import numpy as np
import pytest

from facelib.evaluation import roc_auc
from facelib.inspection import (
    Repeats,
    SetReport,
    compare_table,
    count_repeats,
    inspect_identities,
    summarize,
)
from facelib.sources.duplicates import bits_apart


def people(identities=12, images=5, noise=0.3, size=16, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(identities, size))
    numbers = np.repeat(np.arange(identities) * 10 + 3, images)
    return np.repeat(centers, images, axis=0) + noise * rng.normal(size=(len(numbers), size)), numbers


def test_smallest_example():
    report = inspect_identities(*people())
    assert report.identities == 12
    assert report.auc > 0.99
    assert report.rank1 > 0.95
    assert report.genuine > report.impostor


def test_against_every_pair():
    vectors, numbers = people(noise=1.2)
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
    wide, numbers = people(identities=200, size=32)
    narrow = wide * np.r_[np.ones(3), np.full(29, 0.05)]
    assert inspect_identities(wide, numbers).dimensions > 20 > 5 > inspect_identities(narrow, numbers).dimensions


def test_identities_that_cannot_be_judged():
    with pytest.raises(ValueError, match="two identities with two pictures"):
        inspect_identities(np.eye(4), [1, 1, 2, 3])
    with pytest.raises(ValueError, match=r"\[4, 4\] and identities \[3\]"):
        inspect_identities(np.eye(4), [1, 1, 2])


def test_repeats_against_a_loop():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (400, 32), dtype=np.uint8)
    hashes[7] = hashes[300] ^ np.uint8(0b10)
    hashes[8] = hashes[9]
    numbers = np.arange(400) // 2
    numbers[8:10] = 4
    bits = int(bits_apart(hashes[7], hashes[300:301])[0])
    assert bits == 32
    found = count_repeats(hashes, numbers, most_bits=32)
    assert (found.within, found.across, found.pairs) == (2, 2, [(7, 300, bits)])
    assert count_repeats(hashes, numbers, most_bits=31).across == 0
    assert count_repeats(hashes[:0], numbers[:0]).pairs == []


def test_share_between_identities():
    rng = np.random.default_rng(0)
    numbers = np.repeat(np.arange(300), 4)
    people_part, rest = np.repeat(rng.normal(size=300), 4), rng.normal(size=1200)
    assert summarize(people_part, numbers).between == pytest.approx(1)
    assert summarize(rest, numbers).between == pytest.approx(0, abs=0.08)
    assert summarize(people_part + rest, numbers).between == pytest.approx(0.5, abs=0.08)
    assert summarize([1.0, 2.0], [0, 1]).between is None
    assert summarize([2.0] * 4, [0, 0, 1, 1]).between == 0
    found = summarize(np.arange(101))
    assert (found.mean, found.low, found.middle, found.high, found.between) == (50, 5, 50, 95, None)
    with pytest.raises(ValueError, match="at least one"):
        summarize([])


def test_table_and_numbers():
    from rich.console import Console

    identities = inspect_identities(*people())
    counts = {"requested": 62, "aligned": 60, "rejected:no_face": 2}
    full = SetReport("a", counts, 60, {"yaw": summarize([1.0, 2.0])}, Repeats(1, 0, []), identities)
    plain = SetReport("b", {"aligned": 5}, 5, {}, Repeats(0, 0, []), None)
    console = Console(width=200, record=True)
    console.print(compare_table({"a": full, "b": plain}))
    text = console.export_text()
    assert "60 of 62, 96.77% (no_face 2)" in text
    assert "not known" in text
    assert "rank 1" in text
    assert full.numbers()["yaw/mean"] == 1.5
    assert "identities/auc" in full.numbers()
    assert "identities/auc" not in plain.numbers()
