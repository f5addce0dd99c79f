import dataclasses

import numpy as np
import pytest

from facelib.evaluation import EvaluationOptions, evaluate_identification, results_tables, search_gallery
from facelib.evaluation import identification as module


def people(seed, gallery=30, probes=200, strangers=60, size=8, noise=0.7):
    """Gallery features and subjects (not in order), probes of known and unknown subjects."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(gallery + strangers, size))
    known = rng.permutation(gallery)
    wanted = rng.integers(0, gallery + strangers, probes)
    return centers[known], known * 7, centers[wanted] + noise * rng.normal(size=(probes, size)), wanted * 7


def brute_force(gallery, subjects, probes, wanted, ranks, fpirs):
    """Rates by sorting every probe's list, in float64."""
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (gallery, probes)]
    hits, mates, strangers = [], [], []
    for probe, subject in zip(unit[1], wanted, strict=True):
        scores = unit[0] @ probe
        order = np.argsort(-scores)
        if subject not in subjects:
            strangers.append(scores.max())
            continue
        rank = 1 + int(np.flatnonzero(subjects[order] == subject)[0])
        hits.append(rank)
        mates.append(scores[order[0]] if rank == 1 else -np.inf)
    rates = {f"rank{k}": np.mean(np.array(hits) <= k) for k in ranks}
    for fpir in fpirs:
        # Every score is tried as a threshold; the best TPIR whose FPIR keeps to the target counts.
        grid = [*mates, *np.nextafter(strangers, np.inf)]
        allowed = [t for t in grid if np.mean(np.array(strangers) >= t) <= fpir]
        rates[f"tpir@fpir={fpir:g}"] = max(np.mean(np.array(mates) >= t) for t in allowed)
    return rates


def test_smallest_example():
    searches = search_gallery(np.eye(3), [1, 2, 3], [[1, 0.1, 0], [0.2, 1, 0], [0, 1, 0.9]], [1, 2, 3])
    assert searches.ranks.tolist() == [1, 1, 2]
    report = evaluate_identification([searches], EvaluationOptions(ranks=(1, 2), bootstrap=0))
    assert report.rank == {1: pytest.approx(2 / 3), 2: 1.0}
    assert report.tpir_at_fpir == {}
    assert "FPIR cannot be measured" in report.warnings[0]


@pytest.mark.parametrize("block", [100, 2**26], ids=["small blocks", "one block"])
@pytest.mark.parametrize("seed", range(4))
def test_rates_equal_brute_force(monkeypatch, seed, block):
    monkeypatch.setattr(module, "BLOCK_BYTES", block)
    data = people(seed)
    measures = EvaluationOptions(ranks=(1, 3, 10), fpirs=(0.3, 0.05, 0.001), bootstrap=0)
    report = evaluate_identification([search_gallery(*data)], measures)
    expected = brute_force(*data, measures.ranks, measures.fpirs)
    found = {f"rank{k}": v for k, v in report.rank.items()}
    found |= {f"tpir@fpir={k:g}": v for k, v in report.tpir_at_fpir.items()}
    assert found == pytest.approx(expected)
    assert report.mated[0] + report.nonmated[0] == 200
    assert 0.3 < report.rank[1] < 1


def test_equal_scores_count_against_the_mate():
    """A collapsed model finds nobody."""
    searches = search_gallery(np.ones((5, 4)), np.arange(5), np.ones((3, 4)), [0, 1, 2])
    assert searches.ranks.tolist() == [5, 5, 5]


def test_galleries_are_averaged_and_intervals_hold_the_rates():
    searches = [search_gallery(*people(seed)) for seed in (1, 2)]
    measures = EvaluationOptions(ranks=(1, 5), fpirs=(0.2,), bootstrap=300)
    both = evaluate_identification(searches, measures)
    single = [evaluate_identification([s], measures) for s in searches]
    assert both.rank[1] == pytest.approx(np.mean([r.rank[1] for r in single]))
    assert both.tpir_at_fpir[0.2] == pytest.approx(np.mean([r.tpir_at_fpir[0.2] for r in single]))
    for key, value in {"rank1": both.rank[1], "tpir@fpir=0.2": both.tpir_at_fpir[0.2]}.items():
        assert both.intervals[key].low <= value <= both.intervals[key].high
    (table,) = results_tables({"model": {"ijbc": both}})
    assert table.row_count == 1
    assert set(both.metrics()) == {"rank_1", "rank_5", "tpir_at_fpir_0.2"}


def test_intervals_resample_subjects_with_all_their_probes_for_every_gallery():
    searches = [search_gallery(*people(seed)) for seed in (1, 2)]
    report = evaluate_identification(searches, EvaluationOptions(ranks=(1, 5), fpirs=(0.2,), bootstrap=2000))
    subjects = np.unique(np.concatenate([s for g in searches for s in (g.mate_subjects, g.stranger_subjects)]))
    assert report.identities == len(subjects)
    assert report.resampling == f"over {len(subjects)} identities"
    rng = np.random.default_rng(5)
    rates = []
    for _ in range(2000):
        times = np.bincount(rng.integers(0, len(subjects), len(subjects)), minlength=len(subjects))
        each = []
        for g in searches:
            mates, strangers = (
                np.repeat(np.arange(len(s)), times[np.searchsorted(subjects, s)])
                for s in (g.mate_subjects, g.stranger_subjects)
            )
            allowed = int(0.2 * len(strangers) + 1e-9)
            limit = np.sort(g.strangers[strangers])[::-1][allowed]
            tpir = np.mean((g.ranks[mates] == 1) & (g.mates[mates] > limit))
            each.append([np.mean(g.ranks[mates] <= 1), np.mean(g.ranks[mates] <= 5), tpir])
        rates.append(np.mean(each, axis=0))
    for column, key in enumerate(("rank1", "rank5", "tpir@fpir=0.2")):
        low, high = np.quantile(np.array(rates)[:, column], [0.024, 0.976])
        found = report.intervals[key]
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.012), key
    without = [dataclasses.replace(g, mate_subjects=None, stranger_subjects=None) for g in searches]
    pairs = evaluate_identification(without, EvaluationOptions(ranks=(1,), bootstrap=300))
    assert pairs.resampling == "pairs only, identities unknown"
    assert pairs.intervals["rank1"].high - pairs.intervals["rank1"].low < (
        report.intervals["rank1"].high - report.intervals["rank1"].low
    )


@pytest.mark.parametrize(
    ("gallery", "subjects", "message"),
    [
        (np.eye(3), [1, 2, 2], "subject 2 more than once"),
        (np.eye(3), [1, 2], "gallery must be features"),
        (np.zeros((0, 3)), np.zeros(0, int), "gallery is empty"),
        (np.full((2, 3), np.nan), [1, 2], r"gallery\[0\] holds a value that is not finite"),
    ],
)
def test_what_cannot_be_searched_is_refused(gallery, subjects, message):
    with pytest.raises(ValueError, match=message):
        search_gallery(gallery, subjects, np.eye(3), [1, 2, 3])


def test_a_gallery_of_strangers_only_is_refused():
    with pytest.raises(ValueError, match="at least one probe whose subject it holds"):
        evaluate_identification([search_gallery(np.eye(3), [1, 2, 3], np.eye(3), [4, 5, 6])], EvaluationOptions())
