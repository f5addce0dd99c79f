"""MLflow runs of trials in a real store."""

import pytest
from mlflow import MlflowClient
from support.tracking import new_store

from facelib.config import load_settings
from facelib.tracking import Run
from facelib.tuning.trials import Trial, TrialSegment
from ray_jobs.tuning.trial_runs import TrialRuns, trial_line


@pytest.fixture
def settings(tmp_path):
    uri = f"tracking.uri={new_store(tmp_path)}"
    return load_settings(None, [uri, "tracking.system_metrics=false", f"output={tmp_path}/out"])


def trial_of(**changes):
    segment = TrialSegment(parameters={"ssl.queue_size": 64, "ssl.queue_policy": "fifo"}, stop_epoch=2)
    return Trial(number=3, seed=0, segments=[segment], **changes)


def run_of(client, trial):
    return client.get_run(trial.run_id)


def test_a_trial_is_a_child_run_from_its_start_to_its_end(settings):
    with Run.open(settings, "tune") as parent:
        runs, trial = TrialRuns(parent), trial_of()
        runs.open(trial, settings)
        runs.log_parameters(trial, 0)
        runs[3].log_epoch({"heldout/auc": 0.7}, 1)
        runs.log_missing_epochs(trial, {1: {"heldout/auc": 0.7}, 2: {"heldout/auc": 0.8}})
        trial.state, trial.score, trial.reason = "stopped", 0.8, "stopped by asha"
        runs.end(trial)
    client = MlflowClient(settings.tracking.uri)
    run = run_of(client, trial)
    assert run.info.status == "KILLED"
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert (run.data.tags["facelib.trial"], run.data.tags["facelib.reason"]) == ("3", "stopped by asha")
    assert run.data.metrics["parameter/ssl.queue_size"] == 64
    assert run.data.metrics["score"] == 0.8
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "val/heldout/auc")] == [
        (1, 0.7),
        (2, 0.8),
    ]


def test_interrupted_trials_end_as_failed_and_the_same_run_is_continued(settings):
    with Run.open(settings, "tune") as parent:
        runs, trial = TrialRuns(parent), trial_of()
        runs.open(trial, settings)
        first = trial.run_id
        runs.close()
        client = MlflowClient(settings.tracking.uri)
        assert run_of(client, trial).info.status == "FAILED"
        TrialRuns(parent).open(trial, settings)
        assert trial.run_id == first
        assert run_of(client, trial).info.status == "RUNNING"


def test_the_console_line_of_a_trial():
    segments = [TrialSegment(parameters={"train.learning_rate": 0.1234567, "ssl.queue_size": 16}, stop_epoch=2)]
    trial = Trial(number=3, seed=0, segments=segments, state="finished", score=0.81234, seconds=20)
    line = trial_line(trial, "heldout/auc")
    assert line == "trial 3 finished, heldout/auc 0.8123, 20 s: train.learning_rate=0.1235, ssl.queue_size=16"
