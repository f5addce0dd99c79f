"""Published trainings that go on: equal to the uninterrupted one, or refused by the name of what does not fit."""

import pytest
import torch
from support.datasets import write_dataset
from support.models import trained_backbone
from support.published_files import write_moco, write_unpg, write_usynthface

from facelib.config import SettingsError, change_settings, load_settings
from facelib.models import CheckpointError
from ray_jobs import train_ssl, train_unpg
from ray_jobs.errors import JobError
from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.context import LocalContext
from ray_jobs.training.continuation import read_continuation
from ray_jobs.training.plan import TrainingPlan, training_spec
from ray_jobs.training.trainer import Trainer, run_rank

NETWORK = {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}
TINY = (
    "model.name=iresnet", f"model.options={NETWORK}".replace("'", '"'), "model.embedding_size=16",
    "ssl.queue_size=16", "train.epochs=2", "train.batch_size=8", "train.precision=float32", "train.threads=1",
    "train.selection=last", "data.readers=1", "data.cpus_per_reader=0.1", "data.window_row_groups=2",
)  # fmt: skip
UNPG = {"model.normalization": "imagenet", "model.options": {**NETWORK, "train_scale": True}}


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_dataset(folder / "faces", identities=16, images=2, per_part=8, per_group=4)
    return load_settings(None, [f"output={folder}", *TINY])


def train(settings, method, folder, **span):
    plan = TrainingPlan.create(settings, method, str(folder), in_process=True, **span)
    run_rank(plan, LocalContext(plan.storage, 2, []))
    return read_state(plan.storage, newest_checkpoint(plan.storage))


def assert_same(found, expected):
    assert [row["epoch"] for row in found["history"]] == [2]
    for name, value in expected["method"].items():
        assert torch.equal(found["method"][name], value), name


@pytest.mark.parametrize("policy", ["fifo", "replace_most_similar"])
def test_moco_goes_on_as_if_it_had_not_stopped(settings, ray_cluster, tmp_path, policy):
    chosen = change_settings(settings, {"ssl.queue_policy": policy}, "test")
    whole = train(chosen, "ssl", tmp_path / "whole")
    write_moco(tmp_path / "stopped.pth.tar", train(chosen, "ssl", tmp_path / "half", stop_epoch=1))
    onward = change_settings(chosen, {"train.continue_from": f"{tmp_path}/stopped.pth.tar"}, "test")
    assert_same(train(onward, "ssl", tmp_path / "onward"), whole)


@pytest.mark.parametrize("head", ["arcface", "magface"])
def test_unpg_goes_on_as_if_it_had_not_stopped(settings, ray_cluster, tmp_path, head):
    chosen = change_settings(settings, {**UNPG, "unpg.head": head}, "test")
    whole = train(chosen, "unpg", tmp_path / "whole")
    write_unpg(tmp_path / "last.pt", train(chosen, "unpg", tmp_path / "half", stop_epoch=1), head)
    onward = change_settings(
        chosen, {"train.continue_from": f"{tmp_path}/last.pt", "model.normalization": "auto"}, "test"
    )
    assert_same(train(onward, "unpg", tmp_path / "onward"), whole)


@pytest.fixture(scope="module")
def files(settings, tmp_path_factory):
    """USynthFace's and UNPG's file of an untrained network, after 7 epochs by what they say."""
    folder = tmp_path_factory.mktemp("files")
    for method, changes in (("ssl", {}), ("unpg", UNPG)):
        chosen = change_settings(settings, changes, "test")
        trainer = Trainer(TrainingPlan.create(chosen, method, str(folder)), LocalContext(str(folder), 1, []))
        trained = [p for p in trainer.method.parameters() if p.requires_grad]
        momentum = {index: {"momentum_buffer": torch.rand(p.shape)} for index, p in enumerate(trained)}
        state = {"method": trainer.method.state_dict(), "optimizer": {"state": momentum}, "epoch": 7}
        if method == "ssl":
            usynthface = write_usynthface(folder, state)
        else:
            write_unpg(folder / "last.pt", state)
    return usynthface, folder / "last.pt"


def test_usynthface_goes_on_without_momentum(settings, files, tmp_path, capsys):
    chosen = change_settings(settings, {"train.continue_from": str(files[0]), "train.epochs": 9, "seed": 5}, "test")
    trainer = Trainer(TrainingPlan.create(chosen, "ssl", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
    trainer.restore()
    assert trainer.step == 7 * trainer.sampler.steps_per_epoch
    assert "after epoch 7; without momentum, which the file does not hold" in capsys.readouterr().out
    stored = torch.load(files[0], weights_only=True)
    moco = trainer.method.moco
    assert torch.equal(moco.queue, stored["queue"])
    assert (int(moco.queue_pointer), int(moco.queue_filled), moco.steps) == (0, 16, trainer.step)
    for name, value in moco.key_encoder.state_dict().items():
        assert torch.equal(value, stored[f"encoder_k.{name}"])


REFUSED = {
    "queue": ("ssl", {"ssl.queue_size": 32}, r"ssl\.queue_size 16, here it is 32"),
    "projection": ("ssl", {"ssl.options": {"projection_size": 8}}, r"projection_size 16, here it is 8"),
    "embedding": ("ssl", {"model.embedding_size": 32}, r"does not fit .*model\.embedding_size=32"),
    "network": ("unpg", {"model.options": {**NETWORK, "layers": [1, 2, 1, 1]}}, r"does not fit model\.name=iresnet"),
    "head": ("unpg", {"unpg.head": "cosface"}, r"unpg\.head arcface, here it is cosface"),
    "optimizer": ("unpg", {"train.optimizer": "adamw"}, r"train\.optimizer sgd, here it is adamw"),
    "classes": ("unpg", {"data.identities": 12}, r"number of classes 16, here it is 12"),
    "epochs": ("ssl", {"train.epochs": 7}, r"trained for 7 epochs, and train\.epochs is 7: .*continue_epoch=0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named_before_anything_starts(settings, files, name):
    method, changes, message = REFUSED[name]
    path = str(files[0 if method == "ssl" else 1])
    base = {"train.epochs": 9, **(UNPG if method == "unpg" else {})}
    chosen = change_settings(settings, {**base, "train.continue_from": path, **changes}, "test")
    with pytest.raises(JobError, match=rf"train\.continue_from: .*{message}"):
        (train_ssl if method == "ssl" else train_unpg).validate(chosen)


def test_a_training_of_the_other_kind_is_refused(settings, files):
    for method, path, needed in (("unpg", files[0], "class weights"), ("ssl", files[1], "queue")):
        chosen = change_settings(settings, {"train.continue_from": str(path)}, "test")
        with pytest.raises(JobError, match=f"of the other kind, it has no {needed}"):
            read_continuation(chosen, method)


def test_unknown_epochs_are_asked_for(settings, files, tmp_path):
    (tmp_path / "mine.pth").write_bytes(files[0].read_bytes())
    chosen = change_settings(settings, {"train.continue_from": f"{tmp_path}/mine.pth"}, "test")
    with pytest.raises(JobError, match=r"nor its name says .* set train\.continue_epoch"):
        read_continuation(chosen, "ssl")
    read_continuation(change_settings(chosen, {"train.continue_epoch": 0}, "test"), "ssl")


def test_a_backbone_alone_is_for_init_from(settings, tmp_path):
    torch.save(trained_backbone("iresnet", embedding_size=16, **NETWORK).state_dict(), tmp_path / "backbone.pth")
    chosen = change_settings(settings, {"train.continue_from": f"{tmp_path}/backbone.pth"}, "test")
    with pytest.raises(CheckpointError, match=r"backbone only .* model\.init_from starts"):
        read_continuation(chosen, "ssl")
    both = change_settings(chosen, {"model.init_from": f"{tmp_path}/backbone.pth"}, "test")
    with pytest.raises(SettingsError, match=r"train\.continue_from, model\.init_from: both"):
        train_ssl.validate(both)


def test_the_file_decides_what_is_trained_not_its_name(settings, files, tmp_path):
    (tmp_path / "checkpoint_007.pth").write_bytes(files[0].read_bytes())
    specs = []
    for path in (files[0], tmp_path / "checkpoint_007.pth"):
        chosen = change_settings(settings, {"train.continue_from": str(path)}, "test")
        trainer = Trainer(TrainingPlan.create(chosen, "ssl", str(tmp_path)), LocalContext(str(tmp_path), 1, []))
        specs.append(training_spec(chosen, trainer.faces, "ssl"))
    assert specs[0] == specs[1] != training_spec(settings, trainer.faces, "ssl")
