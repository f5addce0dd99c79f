"""One rank in this process: trained, stopped, resumed, diverged."""

import pytest
import torch
from support.datasets import write_dataset

from facelib.config import change_settings, load_settings
from ray_jobs.errors import JobError
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.context import LocalContext
from ray_jobs.training.plan import TrainingPlan
from ray_jobs.training.trainer import MetricAccumulator, Trainer, run_rank

TINY = (
    "model.name=iresnet", 'model.options={"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}',
    "model.embedding_size=16", "ssl.queue_size=16", "train.epochs=2", "train.batch_size=8", "train.precision=float32",
    "train.threads=1", "evaluate.pairs=20", "data.readers=1", "data.cpus_per_reader=0.1", "data.window_row_groups=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_dataset(folder / "faces", identities=16, images=2, per_part=8, per_group=4)
    write_dataset(folder / "heldout", identities=4, images=3, first=1000)
    return load_settings(None, [f"output={folder}", *TINY])


def train(settings, folder, **span):
    plan = TrainingPlan.create(settings, "ssl", str(folder), in_process=True, **span)
    run_rank(plan, LocalContext(plan.storage, 2, []))
    return read_state(plan.storage, newest_checkpoint(plan.storage))


def test_a_training_in_two_halves_equals_one_in_one_go(settings, ray_cluster, tmp_path):
    whole = train(settings, tmp_path / "whole")
    assert [row["epoch"] for row in whole["history"]] == [1, 2]
    first = train(settings, tmp_path / "halves", stop_epoch=1)
    assert [row["epoch"] for row in first["history"]] == [1]
    second = train(settings, tmp_path / "halves")
    for name, value in whole["method"].items():
        assert torch.equal(value, second["method"][name]), name


def test_another_training_can_be_the_start(settings, ray_cluster, tmp_path):
    train(settings, tmp_path / "first", stop_epoch=1)
    continued = train(settings, tmp_path / "second", warm_start_from=f"{tmp_path}/first/training")
    assert [row["epoch"] for row in continued["history"]] == [1, 2]


def test_network_input_is_channels_last_only_if_asked_for(settings, ray_cluster, tmp_path):
    from ray_jobs.training.loader import load_batches

    inputs = {}
    for wanted in (True, False):
        changed = change_settings(settings, {"train.channels_last": wanted}, "test")
        trainer = Trainer(TrainingPlan.create(changed, "ssl", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
        batch = next(load_batches(trainer.faces, trainer.sampler, 0, 0, 1, settings.data))
        inputs[wanted], labels = trainer._inputs(batch)
        assert inputs[wanted].shape == (2, 8, 3, 112, 112)
        assert labels.tolist() == batch.labels.tolist()
        assert inputs[wanted][0].is_contiguous(memory_format=torch.channels_last) == wanted
    assert torch.equal(inputs[True], inputs[False])


def test_a_diverged_training_ends_with_advice(settings, ray_cluster, tmp_path):
    with pytest.raises(JobError, match=r"the training diverged.* Lower train\.learning_rate"):
        train(change_settings(settings, {"train.learning_rate": 1e30}, "test"), tmp_path)
    assert newest_checkpoint(f"{tmp_path}/training") is None


def test_metrics_are_means_over_the_epoch():
    metrics = MetricAccumulator(samples_per_step=4)
    for value in (1.0, 2.0, 6.0):
        metrics.add({"loss": torch.tensor(value)})
    means = metrics.result(torch.device("cpu"))
    assert means["loss"] == 3.0
    assert means["samples_per_second"] > 0
    assert 0 <= means["data_wait_share"] <= 1
