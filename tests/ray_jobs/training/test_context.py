import json
from types import SimpleNamespace

import pytest
import ray.train
import torch

from ray_jobs.training.checkpoint import newest_checkpoint, read_state
from ray_jobs.training.context import LocalContext
from ray_jobs.training.driver import WorkerGroupTrainer


def test_a_process_of_its_own_keeps_the_newest_checkpoints_and_tells_who_listens(tmp_path):
    told = []
    callback = SimpleNamespace(after_report=lambda context, metrics, checkpoint: told.append(metrics))
    storage = tmp_path / "training"
    place = LocalContext(str(storage), 2, (callback, callback))
    assert (place.rank, place.world, place.local_world) == (0, 1, 1)
    for step in (1, 2, 3):
        place.report({"step": step}, {"step": step, "weights": torch.ones(2)})
        assert not place.storing
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


def test_steps_go_on_while_a_checkpoint_is_stored(tmp_path, ray_cluster):
    """The storage waits for the steps: a report that waited for the storage would never return."""
    from slow_storage import GO, train_on_slow_storage

    told_to = str(tmp_path / "reports.txt")

    class Callback(ray.train.UserCallback):  # of the controller's process
        def after_report(self, run_context, metrics, checkpoint):
            with open(told_to, "a") as file:
                file.write(f"{metrics[0]['step']} {checkpoint is not None}\n")

    WorkerGroupTrainer(
        train_on_slow_storage,
        train_loop_config={"folder": str(tmp_path)},
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.2}),
        run_config=ray.train.RunConfig(
            name="training",
            storage_path=str(tmp_path),
            callbacks=[Callback()],
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    told = json.loads((tmp_path / "told.json").read_text())
    assert told == {"storing": [False, True, True, True], "stored before": False}
    # Reports keep their order, and a checkpoint's comes when it is stored.
    assert (tmp_path / "reports.txt").read_text().splitlines() == ["1 True", "2 False", "3 False"]
    assert (tmp_path / GO).exists()
    state = read_state(f"{tmp_path}/training", newest_checkpoint(f"{tmp_path}/training"))
    assert state["step"] == 1
    assert torch.equal(state["weights"], torch.ones(1000))
