"""Searchers of Tune over the files of trials, killed and continued."""

import math

import pytest

from facelib.config import SettingsError, TuneSettings, load_settings
from facelib.data import Folder
from facelib.tuning.space import SearchSpace
from facelib.tuning.trials import EpochReport, Trial, TrialSegment, TrialStore
from ray_jobs.errors import JobError
from ray_jobs.tuning.hosted_searcher import HostedSearcher, build_searcher, tune_space

OWN = {"class": "own_tuning:HillClimb", "options": {"step": 0.05}}
OPTUNA = {"class": "ray.tune.search.optuna:OptunaSearch", "options": {"seed": 3}}
PLAIN = {"augment.strength": {"uniform": [0.0, 1.0]}, "ssl.queue_size": {"grid": [16, 32, 64]}}
CONDITIONAL = {
    "unpg.head": {"choice": ["arcface", "cosface"]},
    "unpg.margin": [
        {"uniform": [0.2, 0.6], "when": {"unpg.head": ["arcface"]}},
        {"uniform": [0.1, 0.4], "step": 0.1, "when": {"unpg.head": ["cosface"]}},
    ],
}


def space(tree=PLAIN):
    return SearchSpace(tree, load_settings())


def quality(parameters):
    return 1 - abs(parameters["augment.strength"] - 0.7)


class Run:
    """A sweep of one trial after another; every `with` block is a driver."""

    def __init__(self, folder, search, tree=PLAIN, worth=quality, **tune):
        self.folder, self.worth, self.space = folder, worth, space(tree)
        self.tune = TuneSettings(search=search, metric="value", **tune)

    def go(self, trials, dies_with_open=False):
        store = TrialStore(f"{self.folder}/trials")
        host = HostedSearcher(self.tune, self.space, Folder(f"{self.folder}/searcher"))
        host.restore(store.proposed())
        for trial in store.proposed():
            if trial.state == "open":
                self.finish(store, host, trial)
        while len(store.trials) < trials:
            number = len(store.trials) + 1
            parameters, search_id = host.propose(number, store.proposed())
            trial = Trial(number=number, seed=0, segments=[TrialSegment(parameters=parameters, stop_epoch=1)],
                          search_id=search_id)  # fmt: skip
            host.save(number)
            store.save(trial)
            host.forget(number)
            trial.start_order = store.next_order()
            store.save(trial)
            if dies_with_open and number == trials:
                break
            self.finish(store, host, trial)
        return host, [t.parameters for t in store.proposed()]

    def finish(self, store, host, trial):
        value = self.worth(trial.parameters)
        report = EpochReport(epoch=1, value=value, seconds=1, order=store.next_order(), metrics={"value": value})
        trial.add_reports([report], "max", use_last=False)
        store.save(trial)
        host.report(trial, report)
        trial.state = "finished" if math.isfinite(value) else "failed"
        trial.end_order = store.next_order()
        host.end(trial)
        store.save(trial)


@pytest.mark.parametrize("search", [OWN, OPTUNA], ids=["own", "optuna"])
def test_a_killed_driver_asks_on_from_where_it_was(tmp_path, search):
    points = [{"augment.strength": 0.5, "ssl.queue_size": 32}]
    host, whole = Run(tmp_path / "whole", search, points_to_evaluate=points).go(9)
    assert whole[0] == points[0]
    cut = Run(tmp_path / "cut", search, points_to_evaluate=points)
    cut.go(1)
    cut.go(4, dies_with_open=True)
    cut.go(7)
    again, proposed = cut.go(9)
    assert proposed == whole
    if search is OWN:
        assert again.searcher.told == host.searcher.told
    assert len(list((tmp_path / "cut" / "searcher").iterdir())) == 1


def test_the_searcher_learns_from_the_results(tmp_path):
    _, proposed = Run(tmp_path, OPTUNA).go(25)
    assert max(quality(p) for p in proposed[15:]) > 0.97


def test_conditions_are_run_by_definition_for_optuna(tmp_path):
    points = [{"unpg.head": "cosface", "unpg.margin": 0.3}]
    run = Run(tmp_path, OPTUNA, CONDITIONAL, lambda p: p["unpg.margin"], points_to_evaluate=points)
    run.go(5)
    _, proposed = run.go(14)
    assert proposed[0] == points[0]
    assert {p["unpg.head"] for p in proposed} == {"arcface", "cosface"}
    for p in proposed:
        low, high = (0.2, 0.6) if p["unpg.head"] == "arcface" else (0.1, 0.4)
        assert low <= p["unpg.margin"] <= high


def test_others_refuse_conditions():
    with pytest.raises(SettingsError, match=r"tune\.space\.unpg\.margin: has a condition, which HillClimb cannot"):
        build_searcher(TuneSettings(search=OWN), space(CONDITIONAL))


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({"class": "own_tuning:Forgetful"}, r"Forgetful has no methods save and restore"),
        ({"class": "ray.tune.search.bayesopt:BayesOptSearch"}, r"cannot be built with options.*bayesian-optimization"),
        ({"class": "own_tuning:StopWorst"}, r"is not a subclass of ray\.tune\.search\.searcher\.Searcher"),
    ],
)
def test_searchers_that_cannot_be_used(search, message):
    with pytest.raises(SettingsError, match=message):
        build_searcher(TuneSettings(search=search), space())


def test_a_metric_that_is_not_finite_is_an_error_for_the_searcher(tmp_path):
    worth = lambda p: math.nan if p["augment.strength"] > 0.5 else quality(p)  # noqa: E731
    host, proposed = Run(tmp_path, OWN, worth=worth).go(12)
    errors = {search_id: error for _, _, search_id, error in host.searcher.told}
    trials = TrialStore(f"{tmp_path}/trials").proposed()
    assert [errors[t.search_id] for t in trials] == [p["augment.strength"] > 0.5 for p in proposed]
    assert {errors[t.search_id] for t in trials} == {True, False}
    host, _ = Run(tmp_path / "optuna", OPTUNA, worth=worth).go(12)
    states = {t.state.name for t in host.searcher._ot_study.trials}
    assert states == {"COMPLETE", "FAIL"}  # none is left running


def test_a_repeated_proposal_is_answered_and_asked_again(tmp_path):
    small = {"ssl.queue_size": {"grid": [16, 32, 64]}}
    run = Run(tmp_path, OPTUNA, small, lambda p: p["ssl.queue_size"])
    run.go(2)
    _, proposed = run.go(3)
    assert {p["ssl.queue_size"] for p in proposed} == {16, 32, 64}
    host, _ = run.go(3)
    assert host.propose(4, TrialStore(f"{tmp_path}/trials").proposed()) is not None  # nothing new is left


def test_a_proposal_outside_of_the_space_ends_the_sweep(tmp_path):
    host = HostedSearcher(TuneSettings(search=OWN), space(), Folder(str(tmp_path)))
    host.searcher.suggest = lambda key: {"augment.strength": 1.5, "ssl.queue_size": 16}
    with pytest.raises(JobError, match=r"HillClimb proposed .*augment\.strength=1\.5 is not between 0 and 1"):
        host.propose(1, [])


def test_the_space_as_tunes(tmp_path):
    tree = {
        "augment.strength": {"uniform": [0.0, 1.0]},
        "augment.options.blur": {"uniform": [0.0, 0.5], "step": 0.1},
        "augment.magnitude": {"uniform": [5, 29], "step": 3},
        "train.learning_rate": {"loguniform": [1e-4, 1e-1]},
        "augment.num_ops": {"integer": [0, 4]},
        "ssl.queue_size": {"integer": [16, 4096], "log": True},
        "unpg.scale": {"integer": [16, 64], "step": 16},
        "unpg.wisk": {"grid": [None, 1.0]},
    }
    searched = space(tree)
    domains = tune_space(searched, "any")
    seen = {name: {domain.sample() for _ in range(300)} for name, domain in domains.items()}
    for name, values in seen.items():
        for value in values:
            searched.ranges[name][0].nearest(name, value)
    assert seen["augment.num_ops"] == {0, 1, 2, 3, 4}
    assert seen["unpg.scale"] == {16, 32, 48, 64}
    assert seen["augment.magnitude"] == {5, 8, 11, 14, 17, 20, 23, 26, 29}
    assert seen["unpg.wisk"] == {None, 1.0}
