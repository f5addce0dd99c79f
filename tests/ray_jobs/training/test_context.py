from types import SimpleNamespace

import pytest
import torch

from ray_jobs.training.checkpoint import newest_checkpoint, read_state, write_state
from ray_jobs.training.context import LocalContext


def test_a_process_of_its_own_keeps_the_newest_checkpoints_and_tells_who_listens(tmp_path):
    told = []
    callback = SimpleNamespace(after_report=lambda context, metrics, checkpoint: told.append(metrics))
    storage = tmp_path / "training"
    place = LocalContext(str(storage), 2, (callback, callback))
    assert (place.rank, place.world, place.local_world) == (0, 1, 1)
    for step in (1, 2, 3):
        folder = tmp_path / f"state{step}"
        folder.mkdir()
        write_state(folder / "state.pt", {"step": step, "weights": torch.ones(2)})
        place.report({"step": step}, folder)
        assert read_state(str(storage), newest_checkpoint(str(storage)))["step"] == step
    place.report({"note": "no checkpoint"})
    assert len(list(storage.glob("checkpoint_*/state.pt"))) == 2
    assert told == [[{"step": s}] for s in (1, 1, 2, 2, 3, 3)] + [[{"note": "no checkpoint"}]] * 2


def test_a_gpu_is_used_only_where_one_was_reserved(tmp_path, monkeypatch):
    """A process without a share of a GPU sees all of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert LocalContext(str(tmp_path), 1, []).device == torch.device("cpu")
    assert LocalContext(str(tmp_path), 1, [], use_gpu=True).device == torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="PyTorch sees no GPU in this process"):
        LocalContext(str(tmp_path), 1, [], use_gpu=True)
