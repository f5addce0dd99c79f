"""What the controller does with reports and errors, without a cluster."""

import errno

import pytest
from mlflow import MlflowClient
from ray.train import ControllerError, WorkerGroupError
from support.tracking import new_store

from facelib.config import load_settings
from facelib.data import DatasetError, StorageError
from facelib.tracking import Run
from ray_jobs.errors import JobError, user_error
from ray_jobs.training.callbacks import LOGGED, LOGGED_STEPS, FailFastCallback, MLflowCallback


def test_epochs_go_to_the_run_and_other_reports_do_not(tmp_path):
    uri = new_store(tmp_path)
    with Run.open(load_settings(None, [f"tracking.uri={uri}", "tracking.system_metrics=false"]), "train_ssl") as run:
        watch = MLflowCallback(run.uri, run.run_id)
        watch.after_report(None, [{"step": 2}], None)
        watch.after_report(None, [{"step": 3, LOGGED_STEPS: {"loss": 2.5}}, {"step": 3}], None)
        watch.after_report(None, [{"epoch": 1, "step": 4, LOGGED: {"loss": 2.0}}, {"step": 4}], None)
        watch.after_report(None, [{"epoch": 2, "step": 8, LOGGED: {"loss": 1.0}}, {"step": 8}], None)
    client = MlflowClient(uri)
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "train/loss")] == [(1, 2.0), (2, 1.0)]
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "steps/loss")] == [(3, 2.5)]
    assert client.get_run(run.run_id).info.status == "FINISHED"


@pytest.mark.parametrize(
    "mistake", [JobError("diverged"), DatasetError("damaged"), FileNotFoundError("gone"), OSError(errno.ENOSPC, "full")]
)
def test_what_trying_again_cannot_mend_ends_the_training(mistake):
    with pytest.raises(type(mistake)) as raised:
        FailFastCallback().after_exception(None, {0: RuntimeError("connection closed by peer"), 1: mistake})
    assert raised.value is mistake
    # It comes out of fit() wrapped, and is what the user reads.
    assert user_error(ControllerError(mistake)) is mistake
    assert user_error(WorkerGroupError("", {1: mistake})) is mistake


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("NCCL"),
        StorageError("no answer"),
        ConnectionResetError("reset"),
        OSError(errno.EIO, "disk"),
    ],
)
def test_what_may_pass_is_left_to_max_failures(failure):
    FailFastCallback().after_exception(None, {0: failure})
