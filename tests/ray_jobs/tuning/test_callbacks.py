"""Epochs on their way to Tune, and ends of trials on their way to the sweep."""

from types import SimpleNamespace

import cloudpickle
import pytest

from facelib.config import SettingsError, TuneSettings
from ray_jobs.errors import JobError
from ray_jobs.tuning.callbacks import (
    ReportCallback,
    SweepCallback,
    WithoutSweep,
    build_callbacks,
    epoch_report,
    keep_error,
    logged_metrics,
)


class Ends:
    """A sweep that only records which segments end."""

    def __init__(self):
        self.ended, self.error = [], None

    def end_segment(self, number, segment, error=""):
        self.ended.append((number, segment, error))


def trial(error=None):
    return SimpleNamespace(config={"number": 7, "segment": 1}, get_pickled_error=lambda: error)


def test_an_epoch_survives_tunes_flat_form():
    report = epoch_report({"epoch": 3, "logged": {"heldout/auc": 0.8, "loss": 2.0}})
    assert report == {"epoch": 3, "heldout/auc": 0.8, "loss": 2.0}
    added = {"time_total_s": 4.0, "trial_id": "a", "done": False, "config/ssl.queue_size": 16}
    assert logged_metrics({**report, **added}) == {"heldout/auc": 0.8, "loss": 2.0}


def test_only_epochs_are_passed_on():
    sent = []
    callback = ReportCallback(sent.append)
    callback.after_report(None, [{"step": 2}], None)
    callback.after_report(None, [{"epoch": 1, "step": 4, "logged": {"loss": 1.0}}, {"step": 4}], None)
    assert sent == [{"epoch": 1, "loss": 1.0}]


def test_every_end_of_a_trial_reaches_the_sweep(capsys):
    sweep = Ends()
    callback = SweepCallback(sweep)
    callback.on_trial_complete(0, [], trial())
    callback.on_trial_error(0, [], trial(JobError("first line\n\nlower train.learning_rate")))
    callback.on_trial_error(0, [], trial())
    assert [end[:2] for end in sweep.ended] == [(7, 1)] * 3
    assert [end[2] for end in sweep.ended][:2] == ["", "JobError: lower train.learning_rate"]
    callback.on_trial_recover(0, [], trial())
    assert "trial 7: its process died; restarting it" in capsys.readouterr().out


def test_callbacks_of_the_user_are_built():
    named = ["own_tuning:CountResults", {"class": "own_tuning:CountResults", "options": {"path": "a.txt"}}]
    callbacks = build_callbacks(TuneSettings(callbacks=named))
    assert [callback.path for callback in callbacks] == ["results.txt", "a.txt"]
    with pytest.raises(SettingsError, match=r"tune\.callbacks: own_tuning:StopWorst is not a subclass"):
        build_callbacks(TuneSettings(callbacks=["own_tuning:StopWorst"]))


def test_the_sweeps_own_error_is_kept():
    sweep = Ends()
    with pytest.raises(ValueError, match="first"), keep_error(sweep):
        raise ValueError("first")
    with pytest.raises(KeyError), keep_error(sweep):
        raise KeyError("second")
    assert str(sweep.error) == "first"


def test_what_tune_pickles_leaves_the_sweep_out():
    holder = WithoutSweep()
    holder.sweep, holder.slots = open, 2
    copy = cloudpickle.loads(cloudpickle.dumps(holder))
    assert copy.slots == 2
    assert not hasattr(copy, "sweep")
