"""Checkpoints by name and by pattern."""

import pytest
import torch
from support.models import TINY

from facelib.config import load_settings
from facelib.models import build_backbone, network_entry, read_checkpoint, save_backbone
from ray_jobs.embedding.checkpoint_files import CheckpointFile, checkpoint_of, find_checkpoints
from ray_jobs.errors import JobError

SPEC = {"template": "arcface", "size": 112, "color": "RGB"}


def write_state(folder, epoch, seed=0):
    """A state of a label-free training, as far as its network."""
    torch.manual_seed(seed)
    network = build_backbone("iresnet", **TINY)
    method = {f"moco.query_encoder.{name}": value for name, value in network.state_dict().items()}
    spec = {**SPEC, "training": {"epoch": epoch}}
    folder.mkdir(parents=True)
    entry = network_entry("moco.query_encoder.", "iresnet", TINY, spec, "symmetric")
    torch.save({**entry, "method": {**method, "moco.queue": torch.zeros(2)}, "optimizer": {}}, folder / "state.pt")
    return network


def find(folder, *models):
    return find_checkpoints(load_settings(None, [f"output={folder}", f"evaluate.models={','.join(models)}"]))


def test_all_kept_checkpoints_of_a_training_in_natural_order(tmp_path):
    training = tmp_path / "ssl" / "training"
    network = write_state(training / "checkpoint_10", 10.0)
    write_state(training / "checkpoint_9", 9.0)
    (training / "checkpoint_11").mkdir()  # being written
    (training / "checkpoint_manager_snapshot.json").write_text("{}")
    found = find(tmp_path, "ssl/training/*")
    assert found == [
        CheckpointFile(f"ssl epoch {epoch}", f"{training}/checkpoint_{epoch}/state.pt", "ssl", epoch)
        for epoch in (9, 10)
    ]
    read = read_checkpoint(found[1].path)
    assert read.image_spec == {**SPEC, "training": {"epoch": 10.0}}
    assert all(torch.equal(read.state_dict[name], value) for name, value in network.state_dict().items())
    assert checkpoint_of(f"{training}/checkpoint_9") == f"{training}/checkpoint_9/state.pt"


def test_checkpoints_within_epochs_are_numbered(tmp_path):
    for number, epoch in enumerate((0.5, 0.75, 1.0), 1):
        write_state(tmp_path / "ssl" / "training" / f"checkpoint_{number}", epoch)
    found = find(tmp_path, "ssl/training/*")
    assert [(f.name, f.step) for f in found] == [("ssl epoch 0.5", 1), ("ssl epoch 0.75", 2), ("ssl epoch 1", 3)]


def test_epochs_of_published_files_are_in_their_names(tmp_path):
    folder = tmp_path / "disco100K"
    for epoch in (10, 9):
        save_backbone(folder / f"checkpoint_{epoch}.pth", build_backbone("iresnet", **TINY), "iresnet", TINY, SPEC)
    (folder / "log.txt").write_text("")
    found = find(tmp_path, "disco100K/*", f"{folder}/checkpoint_9.pth")
    assert [(f.name, f.series, f.step) for f in found] == [
        ("disco100K checkpoint_9", "disco100K", 9),
        ("disco100K checkpoint_10", "disco100K", 10),
        ("checkpoint_9", "", 0),
    ]


def test_a_pattern_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(
        JobError, match=r"evaluate\.models: .*/ssl/training/\* matches no checkpoint: folders with state"
    ):
        find(tmp_path, "ssl/training/*")


def test_a_name_with_brackets_that_exists_is_that_file(tmp_path):
    save_backbone(tmp_path / "a[1].pt", build_backbone("iresnet", **TINY), "iresnet", TINY, SPEC)
    assert [f.path for f in find(tmp_path, "a[1].pt")] == [f"{tmp_path}/a[1].pt"]
