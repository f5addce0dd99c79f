import numpy as np
import pytest

from facelib.config import TuneSettings, load_settings
from facelib.tuning.search import next_generation, next_parameters
from facelib.tuning.space import SearchSpace
from facelib.tuning.trials import EpochReport, Trial, TrialSegment

SPACE = {
    "augment.strength": {"uniform": [0.0, 1.0]},
    "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "ssl.queue_policy": {"choice": ["fifo", "replace_most_similar"]},
    "ssl.queue_size": {"grid": [128, 256, 512]},
}


@pytest.fixture(scope="module")
def space():
    """Ranges of every kind."""
    return SearchSpace(SPACE, load_settings())


def finished(number, parameters, score, state="finished", epochs=1):
    reports = [EpochReport(epoch=e, value=score, seconds=e) for e in range(1, epochs + 1)]
    segment = TrialSegment(parameters=parameters, stop_epoch=epochs, done=True)
    return Trial(number=number, seed=0, segments=[segment], state=state, reports=reports, score=score)


def test_random_search_is_a_function_of_seed_and_number(space):
    tune = TuneSettings(search="random", trials=3)
    trials = []
    while (parameters := next_parameters(tune, space, trials, seed=5)) is not None:
        assert next_parameters(tune, space, trials, seed=5) == parameters
        trials.append(finished(len(trials), parameters, 0.5))
    assert len(trials) == 3
    assert len({repr(t.parameters) for t in trials}) == 3
    assert next_parameters(tune, space, [], seed=6) != trials[0].parameters


def test_grid_search_visits_every_combination_once(space):
    tune = TuneSettings(search="grid", grid_points=2, trials=100)
    trials = []
    while (parameters := next_parameters(tune, space, trials, seed=0)) is not None:
        trials.append(finished(len(trials), parameters, 0.5))
    assert len({repr(t.parameters) for t in trials}) == len(trials) == 2 * 2 * 2 * 3
    assert next_parameters(TuneSettings(search="grid", grid_points=2, trials=4), space, trials[:4], 0) is None


def test_a_small_space_is_not_drawn_twice_while_there_is_something_new():
    small = SearchSpace({"ssl.queue_size": {"grid": [1, 2, 3]}}, load_settings())
    trials = []
    for number in range(3):
        trials.append(finished(number, next_parameters(TuneSettings(search="random"), small, trials, 0), 0.5))
    assert {t.parameters["ssl.queue_size"] for t in trials} == {1, 2, 3}


def quality(parameters):
    """Best at strength 0.7 and learning rate 1e-2, with one policy better than the other."""
    return (
        -abs(parameters["augment.strength"] - 0.7)
        - 0.3 * abs(np.log10(parameters["train.learning_rate"]) + 2)
        - 0.5 * (parameters["ssl.queue_policy"] == "fifo")
    )


@pytest.mark.parametrize("mode", ["max", "min"])
def test_optuna_finds_more_than_chance(space, mode):
    sign = 1 if mode == "max" else -1
    means = {}
    for search in ("random", "optuna"):
        tune = TuneSettings(search=search, trials=40, startup_trials=10, mode=mode)
        trials = []
        while (parameters := next_parameters(tune, space, trials, seed=1)) is not None:
            trials.append(finished(len(trials), parameters, sign * quality(parameters)))
        means[search] = np.mean([quality(t.parameters) for t in trials[20:]])
    assert means["optuna"] > means["random"] + 0.2


def test_optuna_tries_nothing_twice_where_a_field_counts_only_sometimes():
    """Its own optimum is asked for again and again, and without operations there is no magnitude to vary."""
    tree = {
        "augment.num_ops": {"integer": [0, 2]},
        "augment.magnitude": {"grid": [4, 8, 12, 16], "when": {"augment.num_ops": [1, 2]}},
    }
    small = SearchSpace(tree, load_settings())
    tune = TuneSettings(search="optuna", trials=9, startup_trials=2)
    trials = []
    while (parameters := next_parameters(tune, small, trials, seed=0)) is not None:
        assert ("augment.magnitude" in parameters) == (parameters["augment.num_ops"] > 0)
        score = 1.0 - parameters["augment.num_ops"] - 0.01 * parameters.get("augment.magnitude", 0)
        trials.append(finished(len(trials), parameters, score))
    assert len({repr(t.parameters) for t in trials}) == 9  # all there are


def test_optuna_takes_stopped_failed_and_running_trials_and_conditions():
    tree = {
        "unpg.head": {"choice": ["arcface", "cosface"]},
        "unpg.margin": [
            {"uniform": [0.2, 0.6], "when": {"unpg.head": ["arcface"]}},
            {"integer": [0, 1], "when": {"unpg.head": ["cosface"]}},
        ],
    }
    searched = SearchSpace(tree, load_settings())
    tune = TuneSettings(search="optuna", trials=30, startup_trials=4)
    trials = []
    for number in range(12):
        parameters = next_parameters(tune, searched, trials, seed=0)
        state = ("finished", "stopped", "failed", "open")[number % 4]
        trials.append(finished(number, parameters, 0.1 * number, state))
        if state in ("failed", "open"):
            trials[-1].score, trials[-1].reports = None, []
    again = next_parameters(tune, searched, trials, seed=0)
    assert next_parameters(tune, searched, trials, seed=0) == again
    searched.apply(again)


def population(scores, interval=2, epochs=6):
    tune = TuneSettings(scheduler="pbt", interval=interval, quantile=0.25)
    trials = [
        finished(n, {"augment.strength": 0.5, "train.learning_rate": 1e-3}, s, "open", interval)
        for n, s in enumerate(scores)
    ]
    return tune, trials, epochs


def test_the_worst_of_a_population_go_on_from_the_best():
    searched = SearchSpace({k: SPACE[k] for k in ("augment.strength", "train.learning_rate")}, load_settings())
    tune, trials, epochs = population([0.9, 0.1, 0.5, 0.6, 0.2, 0.95, 0.4, 0.3])
    segments = next_generation(tune, searched, trials, epochs, seed=0)
    assert {n for n, p in segments.items() if p.warm_start_from[0] != n} == {1, 4}
    assert all(segments[n].warm_start_from[0] in (0, 5) for n in (1, 4))
    assert all(segments[n].parameters == trials[n].parameters for n in (0, 2, 3, 5, 6, 7))
    assert all(segments[n].parameters != trials[0].parameters for n in (1, 4))
    assert {p.stop_epoch for p in segments.values()} == {4}
    assert segments == next_generation(tune, searched, trials, epochs, seed=0)
    tune.mode = "min"
    assert {n for n, p in next_generation(tune, searched, trials, epochs, 0).items() if p.warm_start_from[0] != n} == {
        0,
        5,
    }


def test_a_population_ends_with_the_training_and_survives_failures():
    searched = SearchSpace({"augment.strength": SPACE["augment.strength"]}, load_settings())
    tune, trials, _ = population([0.9, 0.1, 0.5, 0.6])
    assert next_generation(tune, searched, trials, 2, seed=0) == {}
    assert {p.stop_epoch for p in next_generation(tune, searched, trials, 3, seed=0).values()} == {3}
    for failed in (1, 2, 3):
        trials[failed].reports = []
    segments = next_generation(tune, searched, trials, 6, seed=0)
    assert {p.warm_start_from[0] for p in segments.values()} == {0}
    trials[0].reports = []
    assert next_generation(tune, searched, trials, 6, seed=0) == {}
