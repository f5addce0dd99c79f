"""Schedulers of Tune over the files of trials: the same decisions after any interruption."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule

from facelib.config import SettingsError, TuneSettings, load_settings
from facelib.tuning.trials import EpochReport, Trial, TrialSegment, TrialStore, in_order
from ray_jobs.errors import JobError
from ray_jobs.tuning.hosted_scheduler import HostedScheduler, build_scheduler, hosted_scheduler, tune_result

EPOCHS, TRIALS = 12, 16
OWN = {"class": "own_tuning:StopWorst", "options": {"chance": 0.1}}
BRACKETS = {
    "class": "ray.tune.schedulers:AsyncHyperBandScheduler",
    "options": {"brackets": 3, "grace_period": 1, "reduction_factor": 2},
}


class Run:
    """A sweep of made-up trainings, one after another in a random order, on a store."""

    def __init__(self, uri, tune):
        self.store, self.tune = TrialStore(uri), tune
        self.host = HostedScheduler(build_scheduler(tune, EPOCHS), tune, seed=3)
        self.stopped = self.host.replay(in_order(self.store.proposed()))

    def go(self, stop_after=10**9):
        """Report epochs of random trials; the curves and the order are functions of the number of reports so far."""
        while running := [n for n in range(1, TRIALS + 1) if self.is_open(n)]:
            done = sum(len(t.reports) for t in self.store.trials.values())
            if done >= stop_after:
                return self
            rng = np.random.default_rng(done)
            self.step(int(rng.choice(running[:4])), float(rng.normal()))
        return self

    def is_open(self, number):
        return number not in self.store.trials or self.store.trials[number].state == "open"

    def step(self, number, noise):
        trial = self.store.trials.get(number)
        if trial is None:
            segment = TrialSegment(parameters={"ssl.margin": number / 10}, stop_epoch=EPOCHS)
            trial = Trial(number=number, seed=0, segments=[segment], start_order=self.store.next_order())
            self.host.start(trial)
        epoch = (trial.epoch or 0) + 1
        value = math.sin(number) + epoch / 10 + noise / 3
        report = EpochReport(epoch=epoch, value=value, seconds=epoch, order=self.store.next_order(),
                             metrics={"value": value})  # fmt: skip
        trial.add_reports([report], self.tune.mode, use_last=False)
        self.store.save(trial)
        stop = self.host.report(trial, report)
        if stop or epoch == EPOCHS:
            trial.state = "stopped" if stop and epoch < EPOCHS else "finished"
            trial.end_order = self.store.next_order()
            self.host.end(trial)
            self.store.save(trial)

    def result(self):
        return {t.number: (t.state, [r.epoch for r in t.reports]) for t in self.store.trials.values()}


class Ghost:
    """As much of a trial as Tune's schedulers look at."""

    def __init__(self, trial_id):
        self.trial_id = trial_id


def settings(scheduler, mode="max", **more):
    return TuneSettings(scheduler=scheduler, mode=mode, metric="value", reduction=2, median_trials=3, **more)


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("scheduler", ["asha", "median", OWN, BRACKETS], ids=["asha", "median", "own", "brackets"])
def test_an_interrupted_sweep_stops_the_same_trials(tmp_path, scheduler, mode):
    tune = settings(scheduler, mode)
    whole = Run(f"{tmp_path}/whole", tune).go().result()
    assert {state for state, _ in whole.values()} == {"finished", "stopped"}
    reports = sum(len(epochs) for _, epochs in whole.values())
    rng = np.random.default_rng(1)
    for case in range(4):
        uri = f"{tmp_path}/cut{case}"
        for cut in sorted(rng.integers(1, reports, size=case + 1)):
            Run(uri, tune).go(stop_after=int(cut))  # a driver that is killed there
        assert Run(uri, tune).go().result() == whole


@pytest.mark.parametrize("mode", ["max", "min"])
@pytest.mark.parametrize("name", ["asha", "median"])
def test_the_decisions_are_those_of_tunes_own_classes(tmp_path, name, mode):
    """Against Tune's class, called by hand as Tune's controller calls it."""
    if name == "asha":
        theirs = AsyncHyperBandScheduler("epoch", "value", mode, max_t=EPOCHS, grace_period=1, reduction_factor=2)
    else:
        theirs = MedianStoppingRule("epoch", "value", mode, grace_period=1, min_samples_required=3)
    controller = SimpleNamespace(get_live_trials=list)
    run = Run(tmp_path, settings(name, mode)).go()
    ghosts, last = {}, {}
    for event in in_order(run.store.proposed()):
        number = event.trial.number
        if event.kind == "start":
            ghosts[number] = Ghost(str(number))
            theirs.on_trial_add(controller, ghosts[number])
        elif event.kind == "end":
            theirs.on_trial_complete(controller, ghosts[number], last[number])
        else:
            last[number] = tune_result(event.trial, event.report)
            decision = theirs.on_trial_result(controller, ghosts[number], last[number])
            trial = event.trial
            stops = trial.state == "stopped" and event.report == trial.reports[-1]
            assert (decision == "STOP") == stops or event.report.epoch == EPOCHS


@pytest.mark.parametrize("name", ["asha", "median"])
def test_nan_stops_no_other_trial_and_switches_nothing_off(tmp_path, name):
    tune = settings(name)
    store, host = TrialStore(f"{tmp_path}"), HostedScheduler(build_scheduler(tune, 9), tune, 0)

    def report(number, value):
        trial = Trial(number=number, seed=0, segments=[TrialSegment(parameters={"a": 1}, stop_epoch=9)])
        trial.start_order = store.next_order()
        host.start(trial)
        order = store.next_order()
        return host.report(trial, EpochReport(epoch=1, value=value, seconds=1, order=order, metrics={"value": value}))

    report(1, math.nan)
    assert [report(n, v) for n, v in ((2, 0.5), (3, 0.6), (4, 0.7), (5, 0.8))] == [None] * 4
    assert report(6, 0.1) is not None
    assert report(7, 0.9) is None


def test_tune_stop_is_decided_as_tune_does():
    tune = TuneSettings(scheduler="none", metric="value", stop={"value": 0.9, "epoch": 5})
    host = HostedScheduler(build_scheduler(tune, 9), tune, 0)
    trial = Trial(number=1, seed=0, segments=[TrialSegment(parameters={"a": 1}, stop_epoch=9)], start_order=1)
    host.start(trial)

    def report(epoch, value):
        return host.report(trial, EpochReport(epoch=epoch, value=value, seconds=1, metrics={"value": value}))

    assert report(1, 0.8) is None
    assert report(2, 0.95) == ("tune.stop: reached value 0.95 after epoch 2", True)
    assert report(5, 0.1) == ("tune.stop: reached epoch 5 after epoch 5", True)


@pytest.mark.parametrize(
    "component",
    [
        {"class": "ray.tune.schedulers:HyperBandScheduler"},
        {"class": "ray.tune.schedulers:HyperBandForBOHB"},
        {"class": "ray.tune.schedulers:PopulationBasedTraining",
         "options": {"hyperparam_mutations": {"train.learning_rate": [0.1, 0.2]}}},
        {"class": "ray.tune.schedulers.pb2:PB2", "options": {"hyperparam_bounds": {"train.learning_rate": [0.1, 1]}}},
        {"class": "ray.tune.schedulers:MedianStoppingRule", "options": {"hard_stop": False}},
        {"class": "ray.tune.schedulers:ResourceChangingScheduler"},
    ],
    ids=lambda component: component["class"].rpartition(":")[2],
)  # fmt: skip
def test_schedulers_that_pause_are_refused(component):
    with pytest.raises(
        SettingsError, match=r"tune\.scheduler: \w+ (pauses trials; .*paused trial would be lost|cannot)"
    ):
        build_scheduler(TuneSettings(scheduler=component), 9)


def test_one_that_pauses_without_saying_so_ends_the_sweep():
    tune = TuneSettings(scheduler={"class": "own_tuning:Pausing"}, metric="value")
    host = HostedScheduler(build_scheduler(tune, 9), tune, 0)
    trial = Trial(number=1, seed=0, segments=[TrialSegment(parameters={"a": 1}, stop_epoch=9)], start_order=1)
    host.start(trial)
    with pytest.raises(JobError, match="Pausing pauses trials"):
        host.report(trial, EpochReport(epoch=1, value=1, seconds=1, metrics={"value": 1}))


def test_the_schedulers_of_the_settings():
    asha = hosted_scheduler(load_settings(None, ["train.epochs=9", "tune.grace_epochs=2"])).scheduler
    assert [rung for rung, _ in asha._brackets[0]._rungs] == [6, 2]
    own = build_scheduler(TuneSettings(scheduler=OWN, metric="value"), 9)
    assert (own.metric, own.chance) == ("value", 0.1)
