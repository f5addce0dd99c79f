"""The engine on a real cluster: trained, killed, resumed, refused."""

import json
import signal
import threading

import psutil
import pytest
import torch
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from support.clusters import statuses
from support.commands import CEILING_S, run_here, start, wait_for, without_busy_warnings, workers_of
from support.models import assert_same_weights
from support.ray_cluster import training_here
from support.training import TINY_TRAINING, datasets

from facelib.models import load_backbone, read_checkpoint
from ray_jobs.training.driver import WorkerGroupTrainer

SETTINGS = (
    *TINY_TRAINING, "--data.readers", 1, "--train.epochs", 3, "--train.batch_size", 8,
    "--train.checkpoint_every", 2, "--unpg.scale", 16,
)  # fmt: skip


pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A training dataset of 48 identities and a held-out one."""
    return datasets(tmp_path_factory.mktemp("data"))


def train(job, folder, faces, *more, until=""):
    done = run_here(job, "--output", folder / "out", *faces, *SETTINGS, *more, folder=folder, until=until)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, faces, ray_cluster):
    """A label-free training in one go, in this process; those of worker groups must give its weights."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with training_here():
        train("train_ssl", folder, faces)
    return folder / "out" / "ssl"


def test_training_writes_a_model_its_history_and_curves(undisturbed):
    checkpoint = read_checkpoint(undisturbed / "model.pt")
    assert checkpoint.image_spec["template"] == "arcface"
    history = json.loads((undisturbed / "history.json").read_text())
    assert [h["epoch"] for h in history] == [1, 2, 3]
    assert {"loss", "contrast_accuracy", "learning_rate", "samples_per_second", "heldout/auc"} <= history[0].keys()
    assert checkpoint.image_spec["training"]["metric"] == max(h["heldout/auc"] for h in history)
    assert (undisturbed / "curves.png").stat().st_size > 5_000
    assert load_backbone(undisturbed / "model.pt")(torch.zeros(1, 3, 112, 112)).shape == (1, 16)


def test_a_worker_killed_in_mid_epoch_changes_no_bit(undisturbed, faces, tmp_path):
    states, workers = tmp_path / "out" / "ssl" / "training", []

    def kill():
        wait_for(lambda: len(list(states.glob("checkpoint_*/state.pt"))) >= 2, what="a checkpoint inside an epoch")
        workers.extend(workers_of(psutil.Process(), "RayTrainWorker"))
        for worker in workers:
            worker.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    train("train_ssl", tmp_path, faces, until="resumed at epoch")
    killer.join()
    assert workers
    assert_same_weights(undisturbed / "model.pt", tmp_path / "out" / "ssl" / "model.pt", 0)


def test_ray_train_starts_no_process_that_has_nothing_to_do(monkeypatch):
    def callbacks():
        return {type(callback) for callback in WorkerGroupTrainer(print)._create_default_callbacks()}

    assert not callbacks() & {DatasetsCallback, PlacementGroupCleanerCallback}
    monkeypatch.setattr("ray_jobs.training.driver.get_webui_url_from_internal_kv", lambda: "127.0.0.1:8265")
    assert callbacks() & {DatasetsCallback, PlacementGroupCleanerCallback} == {PlacementGroupCleanerCallback}


def test_a_driver_keeps_others_out_and_is_continued_by_the_same_command(undisturbed, faces, tmp_path, joined):
    """Stopped by Ctrl-C, ended and killed in the middle of one training."""
    states, log = tmp_path / "out" / "ssl" / "training", tmp_path / "train_ssl.log"
    every_step = ("--train.checkpoint_every", 1)
    for how in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        before = set(states.glob("checkpoint_*/state.pt"))
        where = () if how == signal.SIGKILL else joined  # A driver that is killed takes its own cluster with it.
        driver = start("train_ssl", "--output", tmp_path / "out", *faces, *SETTINGS, *every_step, *where,
                       folder=tmp_path)  # fmt: skip
        if not before:
            wait_for(lambda: (tmp_path / "out" / "ssl" / ".lock").exists(), what="the lock")
            second = run_here("train_ssl", "--output", tmp_path / "out", *faces, *SETTINGS, folder=tmp_path)
            assert second.returncode == 1
            assert f"out/ssl is in use by train_ssl (process {driver.pid} on " in second.stderr
        wait_for(lambda before=before: set(states.glob("checkpoint_*/state.pt")) - before, what="a new checkpoint")
        dashboards = workers_of(driver, "ray-dashboard-NodeHead")
        driver.send_signal(how)
        status = driver.wait(CEILING_S)
        said = without_busy_warnings(log.read_text())
        if how == signal.SIGKILL:
            assert status == -how
            assert not dashboards
        else:
            assert status == 128 + how, said
            assert said.splitlines()[-1] == f"train_ssl: stopped by {how.name}; the same command continues"
            assert "Traceback" not in said
            assert "Failed to query" not in said
            assert statuses(f"sqlite:///{tmp_path}/mlflow.db") == ["FAILED"]
        assert not (tmp_path / "out" / "ssl" / "model.pt").exists()
        wait_for(lambda: not workers_of(psutil.Process(), "RayTrainWorker"), what="the end of the driver's trainer")
    with training_here():
        assert "resumed at epoch" in train("train_ssl", tmp_path, faces, *every_step)
        assert_same_weights(undisturbed / "model.pt", tmp_path / "out" / "ssl" / "model.pt", 0)
        assert statuses(f"sqlite:///{tmp_path}/mlflow.db") == ["FINISHED"]
        assert "exists already" in train("train_ssl", tmp_path, faces, *every_step)


@pytest.mark.faults
def test_two_workers_resume_within_a_millionth(faces, tmp_path):
    two = ("--train.workers", 2, "--train.cpus_per_worker", 0.5, "--train.max_failures", 2)
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    train("train_ssl", tmp_path / "whole", faces, *two)
    driver = start(
        "train_ssl", "--output", tmp_path / "killed" / "out", *faces, *SETTINGS, *two, folder=tmp_path / "killed"
    )
    states = tmp_path / "killed" / "out" / "ssl" / "training"
    wait_for(lambda: list(states.glob("checkpoint_*/state.pt")), what="a checkpoint")
    workers_of(driver, "RayTrainWorker")[-1].send_signal(signal.SIGKILL)
    assert driver.wait(CEILING_S) == 0, (tmp_path / "killed" / "train_ssl.log").read_text()
    assert_same_weights(*(tmp_path / n / "out" / "ssl" / "model.pt" for n in ("whole", "killed")), 1e-6)


def test_supervised_training_learns(faces, tmp_path, in_process):
    train("train_unpg", tmp_path, faces, "--unpg.head", "cosface", "--unpg.margin", 0.1, "--train.epochs", 6)
    history = json.loads((tmp_path / "out" / "unpg" / "history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]
    assert history[-1]["train_accuracy"] > 2 / 48


def test_a_sharded_head_on_two_workers_starts_from_a_label_free_model(undisturbed, faces, tmp_path):
    # A tiny learning rate: what was started from must still be seen in what came out.
    train("train_unpg", tmp_path, faces, "--train.workers", 2, "--train.cpus_per_worker", 0.5,
          "--unpg.shard_head", "true", "--unpg.triplet", 0.1, "--model.init_from", undisturbed / "model.pt",
          "--train.learning_rate", 1e-6, "--train.epochs", 1)  # fmt: skip
    history = json.loads((tmp_path / "out" / "unpg" / "history.json").read_text())
    assert history[0]["triplet_loss"] > 0
    states = sorted((tmp_path / "out" / "unpg" / "training").glob("checkpoint_*/state.pt"))
    state = torch.load(states[-1], weights_only=True)
    assert state["method"]["softmax.head.weight"].shape == (48, 16)  # every class, though each worker held 24
    before, after = load_backbone(undisturbed / "model.pt"), load_backbone(tmp_path / "out" / "unpg" / "model.pt")
    for (name, first), second in zip(before.named_parameters(), after.parameters()):
        assert torch.allclose(first, second, atol=1e-3), name


def test_other_settings_in_an_old_folder_are_refused(undisturbed, faces):
    done = run_here("train_ssl", "--output", undisturbed.parent, *faces, *SETTINGS, "--ssl.queue_size", 32,
                    folder=undisturbed.parent)  # fmt: skip
    assert done.returncode == 1
    assert "ssl.queue_size: 24, now 32" in done.stderr


def test_a_training_that_diverges_says_what_to_do(faces, tmp_path, in_process):
    done = run_here("train_unpg", "--output", tmp_path / "out", *faces, *SETTINGS, "--train.learning_rate", "1e12",
                    folder=tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "Lower train.learning_rate" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out" / "unpg" / "model.pt").exists()


def test_a_mistake_inside_a_worker_ends_the_job_at_once_in_one_line(tmp_path, joined):
    """Its reader meets the damaged part. It would again: it is no failure that train.max_failures is for."""
    flags = datasets(tmp_path)
    part = sorted((tmp_path / "faces").glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    driver = start("train_unpg", "--output", tmp_path / "out", *flags, *SETTINGS, "--train.max_failures", 3, *joined,
                   folder=tmp_path)  # fmt: skip
    seen = set()

    def ended():
        seen.update(worker.pid for worker in workers_of(psutil.Process(), "RayTrainWorker"))
        return driver.poll() is not None

    wait_for(ended, what="the end of the job")
    log = without_busy_warnings((tmp_path / "train_unpg.log").read_text())
    assert driver.returncode == 1
    assert len(seen) == 1
    assert "Error in control loop" not in log
    assert "Traceback" not in log
    assert "\x1b" not in log
    (line,) = [line for line in log.splitlines() if part.name in line]
    assert line.startswith("train_unpg: ")
    assert not (tmp_path / "out" / "unpg" / "model.pt").exists()


@pytest.mark.faults
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(undisturbed, faces, tmp_path):
    driver = start("train_ssl", "--output", tmp_path / "out", *faces, *SETTINGS, folder=tmp_path)
    states = tmp_path / "out" / "ssl" / "training"
    wait_for(lambda: len(list(states.glob("checkpoint_*/state.pt"))) >= 2, what="two checkpoints")
    training = workers_of(driver, "RayTrainWorker") + workers_of(driver, "TrainController")
    driver.kill()
    driver.wait()
    assert not psutil.wait_procs(training, timeout=CEILING_S)[1]  # A worker may still write another checkpoint.
    newest = max(states.glob("checkpoint_*/state.pt"))
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    output = train("train_ssl", tmp_path, faces, until="resumed at epoch")
    assert f"{newest.parent.name} is damaged" in output
    assert_same_weights(undisturbed / "model.pt", tmp_path / "out" / "ssl" / "model.pt", 0)
