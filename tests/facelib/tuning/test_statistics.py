import itertools
import math

import numpy as np
import pytest
from scipy import stats

from facelib.config import load_settings
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import (
    ComparableTrials,
    comparable_trials,
    compare_finalists,
    estimate,
    importance,
    sweep_importance,
    tukey,
)
from facelib.tuning.trials import EpochReport, Trial, TrialSegment
from ray_jobs.resources import trials_that_fit


@pytest.fixture
def rng():
    """Of each test its own: whether a rate is within bounds must not depend on the order of tests."""
    return np.random.default_rng(0)


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


def test_interval_of_a_mean_is_student_s(rng):
    for count in (2, 3, 7):
        values = rng.normal(size=count)
        found = estimate(values)
        low, high = stats.t.interval(0.95, count - 1, values.mean(), stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high))
    assert math.isnan(estimate([0.5]).low)


def test_two_finalists_are_compared_by_the_paired_t_test(rng):
    """With one pair there is no choice among pairs: Tukey's test is Student's."""
    for seeds in (3, 6):
        table = rng.normal(size=(2, seeds))
        difference, p = tukey(table, 0, 1)
        expected = stats.ttest_rel(table[0], table[1])
        interval = expected.confidence_interval(0.95)
        assert p == pytest.approx(expected.pvalue, abs=1e-6)
        assert (difference.low, difference.high) == pytest.approx((interval.low, interval.high), rel=1e-4)


def test_several_finalists_against_the_two_way_analysis_of_variance(rng):
    table = rng.normal(size=(4, 5)) + 3 * rng.normal(size=5)
    mean = table.mean()
    rows, columns = table.mean(axis=1) - mean, table.mean(axis=0) - mean
    squares = sum((table[i, j] - mean - rows[i] - columns[j]) ** 2 for i in range(4) for j in range(5)) / 12
    difference, p = tukey(table, 2, 0)
    statistic = abs(table[2].mean() - table[0].mean()) / math.sqrt(squares / 5)
    assert p == pytest.approx(stats.studentized_range.sf(statistic, 4, 12))
    half = stats.studentized_range.ppf(0.95, 4, 12) * math.sqrt(squares / 5)
    assert difference.high - difference.mean == pytest.approx(half)


@pytest.mark.parametrize(("finalists", "sweeps"), [(2, 400), (5, 150)])
@pytest.mark.slow
def test_no_difference_is_declared_too_often(finalists, sweeps, rng):
    """Equal finalists, the best of which is chosen by the same repeats: "better" in 5 % of sweeps, no more."""
    wrong = 0
    for _ in range(sweeps):
        seeds = 0.02 * rng.normal(size=3)  # Some seeds are better for all.
        scores = {n: dict(enumerate(0.9 + 0.01 * rng.normal(size=3) + seeds)) for n in range(finalists)}
        wrong += any(c.significant for c in compare_finalists(scores, "max").comparisons)
    assert 0.005 < wrong / sweeps < 0.1


def test_equal_finalists_beside_worse_ones_are_not_told_apart(rng):
    wrong = 0
    for _ in range(60):
        scores = {n: dict(enumerate((0.9 if n < 3 else 0.7) + 0.01 * rng.normal(size=3))) for n in range(5)}
        comparisons = compare_finalists(scores, "max").comparisons
        wrong += any(c.significant for c in comparisons if c.other < 3)
        assert all(c.significant for c in comparisons if c.other >= 3)
    assert wrong / 60 < 0.15


def test_rounding_noise_is_no_measurement_of_chance():
    steady = {0: {1: 0.9, 2: 0.9, 3: 0.9}, 1: {1: 0.8, 2: 0.8, 3: 0.8}}
    noisy = {0: steady[0], 1: {1: 0.8, 2: 0.8 + 1e-16, 3: 0.8 - 1e-16}}
    for scores in (steady, noisy):
        [comparison] = compare_finalists(scores, "max").comparisons
        assert (comparison.p, comparison.significant) == (1, False)
        assert comparison.difference.mean == pytest.approx(0.1)
    clear = {0: {s: 0.9 + 1e-7 * s**2 for s in range(9)}, 1: {s: 0.1 + 1e-7 * s for s in range(9)}}
    [comparison] = compare_finalists(clear, "max").comparisons
    assert 0 < comparison.p < 1e-6


def test_failed_repeats_are_left_out_seed_by_seed():
    scores = {1: {1: 0.9, 2: 0.91, 3: 0.9}, 2: {2: 0.99, 3: 0.79}, 4: {}, 5: {1: 0.8, 2: 0.815, 3: 0.8, 4: 0.7}}
    verdict = compare_finalists(scores, "max")
    # Two seeds do not make a winner, whatever their mean.
    assert list(verdict.finalists) == [1, 5, 2]
    assert verdict.seeds == 3
    five, two = verdict.comparisons
    assert five.difference.mean == pytest.approx(0.295 / 3)
    assert five.significant
    assert (two.p, two.difference.count) == (1, 2)
    assert two.difference.mean == pytest.approx((0.91 - 0.99 + 0.9 - 0.79) / 2)
    assert math.isnan(two.difference.low)
    assert compare_finalists({1: {}, 2: {1: math.nan}}, "max") is None
    few = compare_finalists({1: {1: 0.9, 2: 0.91}, 2: {1: 0.5, 2: 0.52}}, "max")
    assert (few.winner, few.seeds, few.comparisons[0].significant) == (1, 2, False)


@pytest.mark.slow
def test_importance_finds_what_matters(rng):
    space = SearchSpace(
        {
            "augment.strength": {"uniform": [0, 1]},
            "augment.magnitude": {"uniform": [0, 30]},
            "ssl.queue_policy": {"choice": ["fifo", "replace_most_similar"]},
        },
        load_settings(),
    )
    parameters = [space.sample(rng) for _ in range(40)]
    scores = [p["augment.strength"] + 0.5 * (p["ssl.queue_policy"] == "fifo") for p in parameters]
    found = importance(space, parameters, scores)
    assert found.explained > 0.5
    assert found.shares["augment.strength"] > found.shares["ssl.queue_policy"] > 0.1
    assert abs(found.shares["augment.magnitude"]) < 0.1
    noise = importance(space, parameters, list(rng.normal(size=40)))
    assert noise.explained < 0.2
    assert importance(space, parameters[:7], scores[:7]) is None
    assert importance(space, parameters, [0.5] * 40) is None


def curves(seed, trials=60, epochs=9, grace=1, reduction=3):
    """A sweep under successive halving: `strength` makes a training fast, `magnitude` makes it good in the end."""
    rng = np.random.default_rng(seed)
    space = SearchSpace({"augment.strength": {"uniform": [0, 1]}, "augment.magnitude": {"uniform": [0, 30]}},
                        load_settings())  # fmt: skip
    made, whole = [], []
    for number in range(trials):
        parameters = space.sample(rng)
        speed, limit = 0.3 + 1.5 * parameters["augment.strength"], 0.5 + parameters["augment.magnitude"] / 100
        values = [limit * (1 - math.exp(-speed * e)) + 0.005 * rng.normal() for e in range(1, epochs + 1)]
        made.append((number, parameters, values))
        whole.append(max(values))
    alive, stop = set(range(trials)), dict.fromkeys(range(trials), epochs)
    rung = grace
    while rung < epochs:
        ranked = sorted(alive, key=lambda n: -made[n][2][rung - 1])
        keep = set(ranked[: max(1, len(ranked) // reduction)])
        stop.update(dict.fromkeys(alive - keep, rung))
        alive, rung = keep, rung * reduction
    found = [
        Trial(
            number=n + 1, seed=0, segments=[TrialSegment(parameters=p, stop_epoch=epochs, done=True)],
            state="finished" if stop[n] == epochs else "stopped", score=max(values[: stop[n]]), epoch=stop[n],
            reports=[EpochReport(epoch=e, value=v, seconds=e) for e, v in enumerate(values[: stop[n]], 1)],
        )
        for n, p, values in made
    ]  # fmt: skip
    return space, found, whole


@pytest.mark.slow
def test_importance_under_early_stopping_does_not_measure_who_was_stopped():
    space, trials, whole = curves(0)
    parameters = [t.parameters for t in trials]
    truth = importance(space, parameters, whole).shares
    assert truth["augment.magnitude"] > 5 * truth["augment.strength"]
    mixed = importance(space, parameters, [t.score for t in trials]).shares
    assert mixed["augment.magnitude"] < mixed["augment.strength"]  # Of scores of unequal trainings.
    found, compared = sweep_importance(space, trials, "max")
    assert found.trials == len(compared.trials) == 20
    assert found.basis.startswith("the 20 of 60 trials that reached epoch 3, by their scores up to it")
    assert {t.score for t in compared.trials} == {max(r.value for r in t.reports[:3]) for t in trials if t.epoch >= 3}
    assert found.shares["augment.magnitude"] > 2 * found.shares["augment.strength"]


def test_trials_are_compared_at_one_epoch_or_when_all_are_finished():
    _, trials, _ = curves(1, trials=24)
    assert comparable_trials(trials, "max").basis.startswith("the 24 of 24 trials that reached epoch 1,")
    finished = [t.model_copy(update={"state": "finished"}) for t in trials]
    assert comparable_trials(finished, "max") == ComparableTrials(finished, "24 finished trials")
    last = comparable_trials(trials, "min", use_last=True).trials
    assert [t.score for t in last] == [t.reports[0].value for t in trials]
    broken = [t.model_copy(update={"state": "failed"}) for t in trials[:3]]
    base = trials[3].model_copy(update={"segments": [TrialSegment(parameters={}, stop_epoch=9)]})
    nan = trials[4].model_copy(update={"reports": [EpochReport(epoch=1, value=math.nan, seconds=1)]})
    assert len(comparable_trials([*broken, base, nan, *trials[5:]], "max").trials) == 19
    assert comparable_trials([], "max").trials == []


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
