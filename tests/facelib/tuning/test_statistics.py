import itertools
import math

import numpy as np
import pytest
from scipy import stats

from facelib.config import load_settings
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import compare_finalists, estimate, holm, importance, paired_p
from ray_jobs.resources import trials_that_fit

RNG = np.random.default_rng(0)


def test_the_better_finalist_wins_and_clear_differences_are_told_from_chance():
    scores = {
        3: {1: 0.90, 2: 0.91, 3: 0.92},
        5: {1: 0.80, 2: 0.81, 3: 0.821},
        0: {1: 0.89, 2: 0.92, 3: 0.91},
    }
    verdict = compare_finalists(scores, "max")
    assert verdict.winner == 3
    assert list(verdict.finalists) == [3, 0, 5]
    assert {c.other: c.significant for c in verdict.comparisons} == {0: False, 5: True}
    assert compare_finalists(scores, "min").winner == 5


def test_intervals_and_tests_are_student_s():
    for count in (2, 3, 7):
        values, others = RNG.normal(size=(2, count))
        found = estimate(values)
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))
        assert paired_p(values - others) == pytest.approx(stats.ttest_rel(values, others).pvalue)
    assert math.isnan(estimate([0.5]).low)
    assert paired_p([0.1]) == 1
    assert (paired_p([0.0, 0.0]), paired_p([0.1, 0.1])) == (1, 0)


def test_holm_against_its_definition():
    for _ in range(50):
        p = RNG.random(5) ** 3
        order = np.argsort(p)
        slow = [max(min(1, (5 - j) * p[order[j]]) for j in range(rank + 1)) for rank in range(5)]
        assert [holm(list(p))[i] for i in order] == pytest.approx(slow)
    assert holm([]) == []


def test_no_difference_is_declared_too_often():
    """Five finalists that are equal: something is called significant in about 5 % of sweeps, no more."""
    wrong = 0
    for _ in range(300):
        scores = {n: dict(enumerate(RNG.normal(0.9, 0.01, 5))) for n in range(5)}
        wrong += any(c.significant for c in compare_finalists(scores, "max").comparisons)
    # The winner is chosen by the same numbers, which makes some of it; far from the 40 % of single t tests.
    assert wrong / 300 < 0.25


def test_failed_repeats_are_left_out_seed_by_seed():
    verdict = compare_finalists({1: {1: 0.9, 2: 0.91, 3: 0.9}, 2: {2: 0.8, 3: 0.79}, 4: {}}, "max")
    assert verdict.winner == 1
    [comparison] = verdict.comparisons
    assert comparison.difference.mean == pytest.approx((0.11 + 0.11) / 2)
    assert compare_finalists({1: {}}, "max") is None


def test_importance_finds_what_matters():
    space = SearchSpace(
        {
            "augment.strength": {"uniform": [0, 1]},
            "augment.magnitude": {"uniform": [0, 30]},
            "ssl.queue_policy": {"choice": ["fifo", "replace_most_similar"]},
        },
        load_settings(),
    )
    parameters = [space.sample(RNG) for _ in range(40)]
    scores = [p["augment.strength"] + 0.5 * (p["ssl.queue_policy"] == "fifo") for p in parameters]
    found = importance(space, parameters, scores)
    assert found.explained > 0.5
    assert found.shares["augment.strength"] > found.shares["ssl.queue_policy"] > 0.1
    assert abs(found.shares["augment.magnitude"]) < 0.1
    noise = importance(space, parameters, list(RNG.normal(size=40)))
    assert noise.explained < 0.2
    assert importance(space, parameters[:7], scores[:7]) is None
    assert importance(space, parameters, [0.5] * 40) is None


@pytest.mark.parametrize(
    ("nodes", "worker", "workers", "reader", "readers", "trials"),
    [
        ([{"CPU": 2}], {"CPU": 0.5}, 2, 0.25, 2, 1),  # 2 workers + 4 readers = 2 CPUs
        ([{"CPU": 2}], {"CPU": 0.5}, 1, 0.25, 2, 2),
        ([{"CPU": 2}], {"CPU": 1}, 2, 0.25, 2, 0),  # nothing left for a reader: would wait for ever
        ([{"CPU": 2}], {"CPU": 1}, 1, 1, 3, 1),  # one reader is enough to go on, alone
        ([{"CPU": 3}, {"CPU": 3}], {"CPU": 2}, 1, 0.5, 1, 2),  # six CPUs, but no third piece of two
        ([{"CPU": 8, "GPU": 1}], {"CPU": 1, "GPU": 0.5}, 1, 0.25, 2, 2),
        ([{"CPU": 8}], {"CPU": 1, "GPU": 1}, 1, 0.25, 2, 0),
        ([], {"CPU": 1}, 1, 0.25, 1, 0),
    ],
)
def test_how_many_trials_fit(nodes, worker, workers, reader, readers, trials):
    assert trials_that_fit(nodes, worker, workers, reader, readers) == trials


def test_what_fits_never_asks_for_more_than_there_is():
    for cpus, size, workers, readers in itertools.product((1, 2, 4.5), (0.3, 0.5, 1), (1, 2), (1, 2)):
        count = trials_that_fit([{"CPU": cpus}], {"CPU": size}, workers, 0.25, readers)
        assert count * workers * (size + 0.25) <= cpus + 1e-6
