"""Damaged checkpoints, and Ray Train's own notes about them."""

import contextlib
import json
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.fs as pafs
import pytest
import torch
from support.commands import ROOT

from ray_jobs.training import checkpoint
from ray_jobs.training.checkpoint import (
    BOOKKEEPING_NAME,
    STATE_NAME,
    discard_stale_bookkeeping,
    newest_checkpoint,
    read_state,
    read_state_once_a_node,
    snapshot,
    store_state,
    write_state,
)

NAMES = [f"checkpoint_2026-01-0{day}_10-00-00.000000" for day in (1, 2, 3)]


@pytest.fixture
def storage(tmp_path):
    """Three checkpoints, oldest first, holding 1, 2 and 3."""
    for value, name in enumerate(NAMES, 1):
        (tmp_path / name).mkdir()
        write_state(tmp_path / name / STATE_NAME, {"weights": torch.full((4000,), float(value)), "samples": value})
    return tmp_path


def test_the_newest_is_read(storage):
    name = newest_checkpoint(str(storage))
    assert name == NAMES[2]
    state = read_state(str(storage), name)
    assert state["samples"] == 3
    assert torch.equal(state["weights"], torch.full((4000,), 3.0))


def test_a_snapshot_is_not_changed_by_later_steps():
    weights = torch.ones(3, requires_grad=True)
    state = {"method": {"weights": weights}, "optimizer": {"state": {0: {"step": torch.tensor(4.0)}}}, "epoch": 2}
    copy = snapshot(state)
    with torch.no_grad():
        weights.zero_()
    state["optimizer"]["state"][0]["step"] += 1
    assert copy["method"]["weights"].tolist() == [1, 1, 1]
    assert not copy["method"]["weights"].requires_grad
    assert copy["optimizer"]["state"][0]["step"] == 4
    assert copy["epoch"] == 2


def test_a_state_is_stored_whole_or_not_at_all(tmp_path):
    local = pafs.LocalFileSystem()
    store_state(local, f"{tmp_path}/checkpoint_1", {"samples": 1})
    assert [path.name for path in (tmp_path / "checkpoint_1").iterdir()] == [STATE_NAME]
    assert read_state(str(tmp_path), "checkpoint_1") == {"samples": 1}

    class Interrupted(pafs.LocalFileSystem):
        def move(self, source, target):
            raise OSError(5, "interrupted")

    with pytest.raises(OSError, match="interrupted"):
        store_state(Interrupted(), f"{tmp_path}/checkpoint_2", {"samples": 2})
    assert not list((tmp_path / "checkpoint_2").iterdir())


def test_ranks_of_one_node_fetch_a_remote_state_once(storage, tmp_path_factory, monkeypatch):
    fetched = []

    @contextlib.contextmanager
    def fetch(source):
        fetched.append(source)
        yield storage / NAMES[2] / STATE_NAME

    monkeypatch.setattr(checkpoint, "local_copy", fetch)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("node")))
    barrier = threading.Barrier(3)
    with ThreadPoolExecutor(3) as ranks:
        states = list(
            ranks.map(
                lambda rank: read_state_once_a_node("s3://bucket/run", NAMES[2], rank, barrier.wait, "run"), range(3)
            )
        )
    assert [state["samples"] for state in states] == [3, 3, 3]
    assert fetched == [f"s3://bucket/run/{NAMES[2]}/{STATE_NAME}"]
    assert not list(Path(tempfile.gettempdir()).iterdir())


def test_a_local_state_is_read_where_it_is(storage):
    assert read_state_once_a_node(str(storage), NAMES[2], 1, lambda: None, "run")["samples"] == 3


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip_a_bit(path):
    data = bytearray(path.read_bytes())
    data[data.index(torch.full((4000,), 3.0).numpy().tobytes()) + 5000] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, lambda p: p.write_bytes(b""), lambda p: p.unlink()])
def test_a_damaged_one_is_named_and_the_one_before_is_taken(storage, damage, caplog):
    damage(storage / NAMES[2] / STATE_NAME)
    assert newest_checkpoint(str(storage)) == NAMES[1]
    assert f"{NAMES[2]} is damaged" in caplog.text


def test_without_an_intact_one_the_training_starts_from_the_beginning(storage, caplog):
    for name in NAMES:
        cut_off(storage / name / STATE_NAME)
    assert newest_checkpoint(str(storage)) is None
    assert "the training starts from the beginning" in caplog.text
    caplog.clear()
    assert newest_checkpoint(str(storage / "nowhere")) is None
    assert caplog.text == ""


def notes(*names):
    return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": n, "metrics": {}} for n in names]})


@pytest.mark.parametrize(
    ("text", "problem"),
    [(notes(*NAMES)[:-9], "is damaged"), ("", "is damaged"), (notes("checkpoint_gone"), "names checkpoint_gone")],
)
def test_notes_that_would_stop_ray_train_are_removed(storage, text, problem, caplog):
    (storage / BOOKKEEPING_NAME).write_text(text)
    discard_stale_bookkeeping(str(storage))
    assert not (storage / BOOKKEEPING_NAME).exists()
    assert problem in caplog.text


def test_good_notes_are_kept(storage, caplog):
    (storage / BOOKKEEPING_NAME).write_text(notes(*NAMES))
    discard_stale_bookkeeping(str(storage))
    assert (storage / BOOKKEEPING_NAME).exists()
    assert caplog.text == ""


SMALL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from ray_jobs.training.checkpoint import write_state
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    write_state(Path(sys.argv[1]), {"weights": torch.zeros(100_000)})
except OSError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_state_that_cannot_be_written_is_an_operating_system_error(tmp_path):
    """Not a RuntimeError, which is all that torch raises."""
    done = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(tmp_path / STATE_NAME)], cwd=ROOT, capture_output=True, text=True
    )
    assert "cannot write a checkpoint" in done.stdout, done.stderr
