from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from ray_jobs.tuning.callbacks import epoch_report
from ray_jobs.tuning.schedulers import SweepScheduler


class Stops:
    """A sweep that stops trials below a value."""

    def __init__(self):
        self.failures, self.reports, self.error = {}, [], None

    def report(self, number, epoch, metrics):
        self.reports.append((number, epoch, metrics))
        return metrics["auc"] < 0.5


@pytest.fixture
def scheduler():
    return SweepScheduler(Stops())


def result_of(scheduler, result):
    return scheduler.on_trial_result(None, SimpleNamespace(config={"number": 4}), result)


@pytest.mark.parametrize(("value", "decision"), [(0.7, TrialScheduler.CONTINUE), (0.4, TrialScheduler.STOP)])
def test_the_sweep_decides_at_every_epoch(scheduler, value, decision):
    assert result_of(scheduler, epoch_report({"epoch": 2, "logged": {"auc": value}})) == decision
    assert scheduler.sweep.reports == [(4, 2, {"auc": value})]


def test_a_failure_is_noted_and_stops_nothing_else(scheduler):
    assert result_of(scheduler, {"failure": "diverged"}) == TrialScheduler.CONTINUE
    assert scheduler.sweep.failures == {4: "diverged"}
    assert scheduler.sweep.reports == []


def test_an_error_of_the_sweep_is_kept(scheduler):
    with pytest.raises(KeyError):
        result_of(scheduler, epoch_report({"epoch": 1, "logged": {"loss": 1.0}}))
    assert isinstance(scheduler.sweep.error, KeyError)
