"""Label-free training as a Python function, as in a notebook beside a Ray that already runs."""

import signal

import pytest
import ray
from mlflow import MlflowClient
from support.datasets import write_dataset
from support.models import assert_same_weights
from support.ray_cluster import training_here
from support.tracking import new_store

from facelib.config import SettingsError, change_settings, load_settings
from facelib.models import load_backbone
from ray_jobs.errors import JobError
from ray_jobs.train_ssl import check_settings, train_ssl

TINY = (
    "model.name=iresnet", 'model.options={"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}',
    "model.embedding_size=16", "ssl.queue_size=16", "train.epochs=2", "train.batch_size=8", "train.precision=float32",
    "train.threads=1", "train.cpus_per_worker=0.5", "evaluate.pairs=20", "data.readers=1", "data.cpus_per_reader=0.1",
    "data.window_row_groups=2", "tracking.system_metrics=false",
)  # fmt: skip


@pytest.fixture
def settings(tmp_path):
    write_dataset(tmp_path / "faces", identities=16, images=2, per_part=8, per_group=4)
    write_dataset(tmp_path / "heldout", identities=4, images=3, first=1000)
    return load_settings(None, [f"output={tmp_path}", f"tracking.uri={new_store(tmp_path)}", *TINY])


@pytest.mark.slow
def test_a_function_call_trains_and_returns_curves_and_works_twice(settings, ray_cluster, tmp_path):
    interrupt = signal.getsignal(signal.SIGINT)
    result = train_ssl(settings)
    assert signal.getsignal(signal.SIGINT) is interrupt  # Ray Train leaves one that swallows Ctrl-C
    assert result.written == (f"{tmp_path}/ssl/model.pt",)
    table = result.to_dataframe()
    assert table["epoch"].tolist() == [1, 2]
    assert result.metrics["best_metric"] == table["heldout/auc"].max()
    assert load_backbone(result.written[0])
    again = train_ssl(settings)  # finished, so it is kept
    assert again == result
    with training_here():
        other = train_ssl(change_settings(settings, {"output": f"{tmp_path}/other", "seed": 1,
                                                     "data.dataset": f"{tmp_path}/faces",
                                                     "data.heldout": f"{tmp_path}/heldout"}, "test"))  # fmt: skip
    assert other.metrics != result.metrics
    assert ray.is_initialized()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("facelib").experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_errors_are_raised_and_the_process_goes_on(settings, ray_cluster, tmp_path):
    with pytest.raises(SettingsError, match=r"ssl\.queue_size: 4 keys cannot hold one global batch of 8"):
        train_ssl(change_settings(settings, {"ssl.queue_size": 4}, "test"))
    with pytest.raises(SettingsError, match=r"ssl\.options: projection_size=0 must be at least 1"):
        train_ssl(change_settings(settings, {"ssl.options": {"projection_size": 0}}, "test"))
    with pytest.raises(SettingsError, match=r"ssl\.options: .*multiple values for keyword argument 'momentum'"):
        train_ssl(change_settings(settings, {"ssl.options": {"momentum": 0.5}}, "test"))
    with pytest.raises(JobError, match="nowhere"):
        train_ssl(change_settings(settings, {"data.dataset": f"{tmp_path}/nowhere"}, "test"))


def test_settings_are_checked_with_neither_data_nor_ray(tmp_path):
    settings = load_settings(None, [f"output={tmp_path}", *TINY])
    check_settings(settings)
    with pytest.raises(SettingsError, match=r"ssl\.options: MoCo has no setting 'spam'"):
        check_settings(change_settings(settings, {"ssl.options": {"spam": 1}}, "test"))
    start = change_settings(settings, {"model.init_from": "unpg/model.pt"}, "test")
    with pytest.raises(SettingsError, match=r"model\.init_from: .* does not exist"):
        check_settings(start)
    check_settings(start, {f"{tmp_path}/unpg/model.pt"})


@pytest.mark.slow
def test_more_epochs_go_on_from_the_last_one_where_the_schedule_allows(settings, ray_cluster, in_process, tmp_path):
    constant = change_settings(settings, {"train.schedule": "constant", "train.selection": "last"}, "test")
    once = {"output": f"{tmp_path}/once", "data.dataset": f"{tmp_path}/faces"}
    at_once = train_ssl(change_settings(constant, once, "test"))
    first = train_ssl(change_settings(constant, {"train.epochs": 1}, "test"))
    assert len(first.history) == 1
    second = train_ssl(constant)
    assert [row["loss"] for row in second.history] == [row["loss"] for row in at_once.history]
    assert_same_weights(second.written[0], at_once.written[0], 0)
    assert (tmp_path / "ssl" / "model-1-epochs.pt").is_file()


@pytest.mark.slow
def test_more_epochs_with_a_schedule_that_ends_say_what_to_do(settings, ray_cluster, in_process, tmp_path):
    train_ssl(change_settings(settings, {"train.epochs": 1}, "test"))
    with pytest.raises(JobError, match=r"with train.epochs=1, now 2, and train.schedule=cosine .* train.extend=true"):
        train_ssl(settings)
    assert (tmp_path / "ssl" / "model.pt").is_file()
    extended = train_ssl(change_settings(settings, {"train.extend": True}, "test"))
    assert [row["epoch"] for row in extended.history] == [1, 2]
