"""One rank in this process: trained, stopped, resumed, diverged."""

import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.datasets import write_dataset
from support.fake_cuda import StepWatch, fake_cuda

from facelib.config import change_settings, load_settings
from facelib.models import load_backbone, read_checkpoint
from facelib.utils import distributed
from ray_jobs.errors import JobError
from ray_jobs.training import trainer as trainer_module
from ray_jobs.training.callbacks import LOGGED, LOGGED_STEPS
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.context import LocalContext
from ray_jobs.training.loader import Batch
from ray_jobs.training.plan import TrainingPlan
from ray_jobs.training.trainer import LossGuard, MetricAccumulator, Trainer, run_rank

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
    # The state is a checkpoint of its query encoder too.
    storage = f"{tmp_path}/whole/training"
    path = f"{storage}/{newest_checkpoint(storage)}/state.pt"
    assert read_checkpoint(path).image_spec["training"] == {"epoch": 2.0}
    for name, value in load_backbone(path).state_dict().items():
        assert torch.equal(value, whole["method"][f"moco.query_encoder.{name}"]), name
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
    inputs = {}
    for wanted in (True, False):
        changed = change_settings(settings, {"train.channels_last": wanted}, "test")
        trainer = Trainer(TrainingPlan.create(changed, "ssl", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
        inputs[wanted], labels = next(trainer._load(1))
        assert inputs[wanted].shape == (2, 8, 3, 112, 112)
        assert labels.shape == (8,)
        assert inputs[wanted][0].is_contiguous(memory_format=torch.channels_last) == wanted
    assert torch.equal(inputs[True], inputs[False])


STEPS = {
    "fifo": ("ssl", {}),
    "most similar": ("ssl", {"ssl.queue_policy": "replace_most_similar"}),
    "least similar": ("ssl", {"ssl.queue_policy": "replace_least_similar", "train.optimizer": "adamw"}),
    "all options": (
        "ssl",
        {
            "ssl.options": {
                "exclude_same_identity": True,
                "batch_negatives": True,
                "symmetric": True,
                "projection_size": 8,
            },
            "ssl.queue_size": 100,
        },
    ),
    "arcface": ("unpg", {"train.clip_norm": 1.0}),
    "cosface": ("unpg", {"unpg.head": "cosface", "model.dropout": 0.4}),
    "magface": ("unpg", {"unpg.head": "magface", "unpg.wisk": None}),
    "float16": ("unpg", {"train.precision": "float16", "train.clip_norm": 1.0}),
    "sharded float16": ("unpg", {"train.precision": "float16", "unpg.shard_head": True}),
    "sharded": ("unpg", {"unpg.shard_head": True, "unpg.sample_rate": 0.5, "train.clip_norm": 1.0}),
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_on_a_gpu_waits_for_nothing(settings, tmp_path, name, ranks):
    """From the loader's batch to the optimizer: the device is never asked for a value."""
    method, changes = STEPS[name]
    changed = change_settings(settings, {"train.precision": "bfloat16", **changes}, "test")
    context = SimpleNamespace(rank=0, world=1, local_world=1, device=torch.device("cuda", 0))
    views = 2 if method == "ssl" else 1
    batch = Batch(np.zeros((8, views, 3, 112, 112), np.uint8), np.arange(8))
    metrics = MetricAccumulator(8)
    with fake_cuda(ranks):
        trainer = Trainer(TrainingPlan.create(changed, method, str(tmp_path)), context)
        with StepWatch():  # the first step: the optimizer makes its state
            metrics.add(trainer._train_step(*trainer._prefetch(iter([])).to_device(batch)))
        losses = LossGuard(context.device)
        with StepWatch() as step:
            result = trainer._train_step(*trainer._prefetch(iter([])).to_device(batch))
            metrics.add(result)
            losses.observe(2, result["loss"])
    assert bool(step.collectives) == (ranks > 1)
    assert sum(count for name, count in step.operations.items() if name.startswith("_fused_")) > 0
    print(f"{method} {name}: {step.operations.total()} operations, {dict(step.collectives)}, {step.received_bytes}")


@pytest.mark.slow
def test_float16_trains_with_gradient_scaling(settings, tmp_path):
    """Gradients are those without scaling; an overflow skips the step and halves the scale; the scale is kept."""
    half = change_settings(settings, {"train.precision": "float16", "train.learning_rate_batch": 0}, "test")
    batch = torch.randint(256, (1, 4, 3, 112, 112), dtype=torch.uint8), torch.arange(4)
    trainers = [
        Trainer(TrainingPlan.create(chosen, "unpg", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
        for chosen in (change_settings(half, {"train.precision": "float32"}, "test"), half)
    ]
    # A step takes a CPU a second: not from 65,536 down.
    trainers[1].scaler.load_state_dict({**trainers[1].scaler.state_dict(), "scale": 4096.0})
    for trainer in trainers:
        trainer._train_step(*batch)
    while not trainers[1].method.network.conv1.weight.grad.isfinite().all():  # a scale that is too large
        trainers[1]._train_step(*batch)
    assert trainers[1].scaler.get_scale() >= 128
    exact, scaled = (
        torch.cat([p.grad.flatten() for p in trainer.method.parameters() if p.grad is not None]) for trainer in trainers
    )
    assert (exact - scaled).norm() < 0.05 * exact.norm()
    trainer = trainers[1]
    scale, before = trainer.scaler.get_scale(), [p.clone() for p in trainer.method.parameters()]
    trainer.method.network.fc.weight.register_hook(lambda gradient: gradient * torch.inf)
    trainer._train_step(*batch)
    assert trainer.scaler.get_scale() == scale / 2
    assert all(torch.equal(p, old) for p, old in zip(trainer.method.parameters(), before, strict=True))
    states: list[dict] = []
    trainer.context.report = lambda metrics, state=None: states.append(state)
    trainer._report({}, checkpoint=True)
    assert states[0]["scaler"]["scale"] == scale / 2


def test_a_label_that_the_dataset_does_not_have_is_named(settings, tmp_path):
    trainer = Trainer(TrainingPlan.create(settings, "unpg", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
    with pytest.raises(ValueError, match=r"label 16 is outside −1\.\.15"):
        trainer._prefetch(iter([])).to_device(Batch(np.zeros((1, 1, 3, 112, 112), np.uint8), np.array([16])))


class Reports:
    """A callback that keeps what is reported, and the checkpoints there were."""

    def __init__(self, storage):
        self.storage, self.seen = Path(storage), []

    def after_report(self, context, metrics, checkpoint):
        self.seen.append((metrics[0], {path.name for path in self.storage.glob("checkpoint_*")}))


def report(settings, folder):
    plan = TrainingPlan.create(settings, "ssl", str(folder), in_process=True)
    reports = Reports(plan.storage)
    run_rank(plan, LocalContext(plan.storage, 100, [reports]))
    return reports.seen, read_state(plan.storage, newest_checkpoint(plan.storage))


WITHIN = {
    "ssl.pairs_per_identity": 2, "train.log_every": 1, "train.evaluate_every_steps": 3, "train.checkpoint_every": 2,
    "evaluate.pairs": 20,
}  # fmt: skip


def test_an_epoch_is_not_silent(settings, ray_cluster, tmp_path, capsys):
    """Four steps an epoch: a line and points after each, evaluation after the third, a checkpoint after the second."""
    seen, state = report(change_settings(settings, WITHIN, "test"), tmp_path / "talking")
    assert [metrics["step"] for metrics, _ in seen] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [LOGGED in metrics for metrics, _ in seen] == [False, False, False, True] * 2
    steps = [metrics[LOGGED_STEPS] for metrics, _ in seen if LOGGED_STEPS in metrics]
    assert all({"loss", "learning_rate", "samples_per_second"} <= step.keys() for step in steps)
    assert ["heldout/auc" in step for step in steps] == [False, False, True] * 2
    assert [len(checkpoints) for _, checkpoints in seen] == [0, 1, 1, 2, 2, 3, 3, 4]
    # The mean of an epoch is that of its steps.
    losses = [step["loss"] for step in steps[:3]]
    assert min(losses) - 1 < seen[3][0][LOGGED]["loss"] < max(losses) + 1
    printed = capsys.readouterr().out
    assert re.search(
        r"^epoch 1, step 2/4: loss \d+\.\d{3}, .*, \d+ samples/s, learning rate [\d.e-]+, .* left$", printed, re.M
    )
    assert re.search(r"^step 3/4: heldout/auc 0\.\d{4}$", printed, re.M)
    # Evaluations within an epoch can select the model.
    aucs = [(metrics.get(LOGGED) or metrics[LOGGED_STEPS]).get("heldout/auc", 0) for metrics, _ in seen]
    assert state["selection"]["metric"] == max(aucs)
    assert state["selection"]["epoch"] in (0.75, 1, 1.75, 2)


def test_lines_and_checkpoints_do_not_decide_the_weights(settings, ray_cluster, tmp_path):
    quiet = {**WITHIN, "train.log_every": 0, "train.checkpoint_every": 0, "train.checkpoint_seconds": 3600}
    _, talking = report(change_settings(settings, WITHIN, "test"), tmp_path / "talking")
    seen, silent = report(change_settings(settings, quiet, "test"), tmp_path / "silent")
    assert [metrics["step"] for metrics, _ in seen] == [3, 4, 7, 8]
    assert [len(checkpoints) for _, checkpoints in seen] == [0, 0, 0, 1]  # the last is always stored
    for name, value in talking["method"].items():
        assert torch.equal(value, silent["method"][name]), name
    assert [row["heldout/auc"] for row in talking["history"]] == [row["heldout/auc"] for row in silent["history"]]


def test_recent_means_are_those_since_the_last_call():
    metrics = MetricAccumulator(samples_per_step=4)
    means = []
    for values in ((1.0, 2.0), (6.0,), (7.0, 8.0, 9.0)):
        for value in values:
            metrics.add({"loss": torch.tensor(value)})
        means.append(metrics.recent()["loss"])
    assert means == [1.5, 6.0, 8.0]
    assert metrics.result(torch.device("cpu"))["loss"] == 5.5


def accumulated():
    """Means on rank r of two steps: losses r and r + 2, and a rate that is the same everywhere."""
    metrics = MetricAccumulator(samples_per_step=4)
    for value in (0.0, 2.0):
        metrics.add({"loss": torch.tensor(value + distributed.rank()), "learning_rate": torch.tensor(0.1)})
    return metrics.recent(), metrics.result(torch.device("cpu"))


def test_metrics_are_means_over_the_ranks(gloo_pool):
    for recent, result in gloo_pool.run(accumulated):
        for means in (recent, result):
            assert means["loss"] == 1.5
            assert means["learning_rate"] == pytest.approx(0.1)


def test_a_diverged_training_ends_with_advice(settings, ray_cluster, tmp_path):
    with pytest.raises(JobError, match=r"the training diverged.* Lower train\.learning_rate"):
        train(change_settings(settings, {"train.learning_rate": 1e12}, "test"), tmp_path)
    assert newest_checkpoint(f"{tmp_path}/training") is None


def test_a_loss_that_is_not_a_number_ends_the_training_at_its_step(settings, ray_cluster, tmp_path, monkeypatch):
    """Before the end of the epoch, and with the first such step, whatever follows."""
    monkeypatch.setattr(trainer_module, "CHECK_LOSS_EVERY", 2)
    step, trained = Trainer._train_step, 0

    def nan_from_third_step_on(self, *inputs):
        nonlocal trained
        trained += 1
        metrics = step(self, *inputs)
        return {**metrics, "loss": metrics["loss"] * (math.nan if self.step >= 2 else 1)}

    monkeypatch.setattr(Trainer, "_train_step", nan_from_third_step_on)
    with pytest.raises(JobError, match=r"^step 3 \(epoch [\d.]+\): the training diverged, its loss is not a finite"):
        train(change_settings(settings, {"ssl.pairs_per_identity": 4}, "test"), tmp_path)
    assert trained == 4  # of eight steps


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_guard_remembers_the_first_bad_loss(bad):
    guard = LossGuard(torch.device("cpu"))
    for step, loss in enumerate((1.0, 2.0), 1):
        guard.observe(step, torch.tensor(loss))
    assert guard.first_bad_step() is None
    for step, loss in enumerate((bad, 1.0, math.nan), 3):
        guard.observe(step, torch.tensor(loss))
    assert guard.first_bad_step() == 3


def test_metrics_are_means_over_the_epoch():
    metrics = MetricAccumulator(samples_per_step=4)
    for value in (1.0, 2.0, 6.0):
        metrics.add({"loss": torch.tensor(value)})
    means = metrics.result(torch.device("cpu"))
    assert means["loss"] == 3.0
    assert means["samples_per_second"] > 0
    assert 0 <= means["data_wait_share"] <= 1
