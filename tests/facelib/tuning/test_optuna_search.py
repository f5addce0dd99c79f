"""Optuna's samplers on studies that are rebuilt for every proposal."""

import math
import warnings

import optuna
import pytest

from facelib.config import SettingsError, TuneSettings, load_settings
from facelib.tuning.optuna_search import as_optuna, build_sampler, export_study, propose, sampler_name
from facelib.tuning.search import next_parameters
from facelib.tuning.space import SearchSpace
from facelib.tuning.trials import EpochReport, Trial, TrialSegment

NUMBERS = {"augment.strength": {"uniform": [0.0, 1.0]}, "ssl.temperature": {"loguniform": [0.01, 1.0]}}
STEPS = {"augment.strength": {"uniform": [0.0, 1.0], "step": 0.1}, "ssl.queue_size": {"grid": [16, 32, 64, 128]}}


def quality(parameters):
    return 1 - (parameters["augment.strength"] - 0.7) ** 2 - 0.1 * (math.log10(parameters["ssl.temperature"]) + 1) ** 2


class Search:
    """Trials one after another, or `slots` at a time."""

    def __init__(self, tree, slots=1, worth=quality, **tune):
        self.space, self.slots, self.worth = SearchSpace(tree, load_settings()), slots, worth
        self.tune, self.trials, self.order = TuneSettings(trials=100, **tune), [], 0

    def run(self, count):
        while len(self.trials) < count:
            parameters = next_parameters(self.tune, self.space, self.trials, seed=1)
            self.order += 1
            segment = TrialSegment(parameters=parameters, stop_epoch=1)
            self.trials.append(Trial(number=len(self.trials), seed=0, segments=[segment], start_order=self.order))
            running = [t for t in self.trials if t.state == "open"]
            if len(running) >= self.slots:
                self.end(running[0])
        return [t.parameters for t in self.trials]

    def end(self, trial):
        value = self.worth(trial.parameters)
        self.order += 2
        report = EpochReport(epoch=1, value=value, seconds=1, order=self.order - 1)
        trial.add_reports([report], "max", use_last=False)
        trial.state, trial.end_order = "finished", self.order


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "qmc"])
def test_every_sampler_is_a_function_of_the_trials(sampler):
    search = Search(NUMBERS, slots=2, sampler=sampler, startup_trials=3)
    proposed = search.run(12)
    assert len({repr(p) for p in proposed}) == 12
    for count in (4, 8, 11):  # a driver that was killed asks again
        before = [t.model_copy(deep=True) for t in search.trials[:count]]
        for trial in before:
            if trial.number == count - 1:  # it was running then
                trial.state, trial.end_order, trial.reports, trial.score = "open", None, [], None
        assert next_parameters(search.tune, search.space, before, seed=1) == proposed[count]


@pytest.mark.parametrize(("sampler", "name"), [("cmaes", "CmaEsSampler"), ("qmc", "QMCSampler")])
def test_samplers_that_count_propose_as_in_one_study(sampler, name):
    """As Optuna's own loop of `ask` and `tell`, which is never rebuilt."""
    search = Search(NUMBERS, sampler=sampler, startup_trials=3)
    proposed = search.run(20)
    theirs = build_sampler(search.tune, seed=_seed(search))
    assert type(theirs).__name__ == name
    study = optuna.create_study(sampler=theirs, direction="maximize")
    for parameters in proposed:
        trial = study.ask()
        found = search.space.fill(lambda name, chosen: chosen.suggest(trial, name))  # noqa: B023
        assert found == parameters
        study.tell(trial, quality(found))


def _seed(search):
    import numpy as np

    return int(np.random.default_rng([1, 2]).integers(2**31))


def test_models_learn():
    for sampler in ("gp", "cmaes"):
        proposed = Search(NUMBERS, sampler=sampler, startup_trials=4).run(40 if sampler == "cmaes" else 16)
        assert max(map(quality, proposed[-6:])) > max(map(quality, proposed[:4]))
        assert max(map(quality, proposed)) > 0.99


def test_brute_force_visits_everything_once():
    search = Search(STEPS, sampler="brute_force", worth=lambda p: p["augment.strength"])
    assert len({repr(p) for p in search.run(44)}) == 44


def test_options_go_through():
    tune = TuneSettings(sampler={"class": "cmaes", "options": {"popsize": 7}})
    assert build_sampler(tune, 0)._popsize == 7
    tune = TuneSettings(sampler={"class": "optuna.samplers:RandomSampler"})
    assert sampler_name(tune) == "optuna.samplers:RandomSampler"
    assert build_sampler(tune, 3).__class__ is optuna.samplers.RandomSampler
    proposed = Search(NUMBERS, sampler=tune.sampler).run(5)
    assert len({repr(p) for p in proposed}) == 5


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("brute_force", r"tune\.sampler: brute_force cannot search this space: .*step"),
        ({"class": "gp", "options": {"popsize": 3}}, r"tune\.sampler: GPSampler cannot be built with options"),
        ({"class": "optuna.samplers:Absent"}, r"cannot be imported"),
    ],
)
def test_samplers_that_cannot_be_used(sampler, message):
    with pytest.raises(SettingsError, match=message):
        propose(TuneSettings(sampler=sampler), SearchSpace(NUMBERS, load_settings()), [], 0)


def test_first_points_are_the_first_trials():
    points = [{"augment.strength": 0.25, "ssl.temperature": 0.5}, {"augment.strength": 1, "ssl.temperature": 0.1}]
    for more in ({"search": "random"}, {"sampler": "qmc"}, {"search": "grid"}, {"startup_trials": 1}):
        proposed = Search(NUMBERS, points_to_evaluate=points, **more).run(4)
        assert proposed[:2] == points
        assert len({repr(p) for p in proposed}) == 4


def test_ends_of_trials_in_optunas_terms():
    space = SearchSpace(STEPS, load_settings())
    segment = TrialSegment(parameters={"augment.strength": 0.5, "ssl.queue_size": 64}, stop_epoch=2)
    trial = Trial(number=1, seed=0, segments=[segment], state="stopped", score=0.6)
    trial.reports = [EpochReport(epoch=1, value=0.6, seconds=1)]
    frozen = as_optuna(trial, space)
    assert (frozen.state.name, frozen.params, frozen.intermediate_values) == (
        "PRUNED", {"augment.strength": 0.5, "ssl.queue_size": 2}, {1: 0.6},
    )  # fmt: skip
    trial.state, trial.score = "finished", None
    assert as_optuna(trial, space).state.name == "FAIL"


def test_a_study_is_exported_for_the_dashboard(tmp_path):
    search = Search(STEPS, worth=lambda parameters: parameters["augment.strength"])
    search.run(6)
    search.trials[2].state, search.trials[3].state = "stopped", "failed"
    for _ in range(2):  # again after more trials
        export_study(search.tune, search.space, search.trials, f"{tmp_path}/study.db", "sweep")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/study.db")
        assert study.metric_names == ["heldout/auc"]
    assert [t.state.name for t in study.trials].count("COMPLETE") == 4
    assert [t.params for t in study.trials] == [t.parameters for t in search.trials]  # 64 and not the third of the grid
    assert study.trials[2].user_attrs == {"trial": "2", "state": "stopped", "mlflow_run": ""}
    assert study.best_value == max(t.score for t in search.trials if t.state == "finished")
