"""Training under faults on several nodes. Beside tests/ray_jobs/test_engine.py, which kills a worker and the driver and
damages a checkpoint in every `make test`.
"""

import json
import signal
import time

import pytest
import torch
from support.clusters import ray_processes, statuses
from support.commands import run
from support.tracking_server import TrackingServer
from support.training import TINY_TRAINING

from facelib.models import read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SETTINGS = (
    *TINY_TRAINING, "--train.epochs", 4, "--train.batch_size", 4, "--train.checkpoint_every", 2,
    "--train.workers", 2, "--train.cpus_per_worker", 1, "--data.readers", 1, "--data.cpus_per_reader", 0.25,
)  # fmt: skip


class Training:
    """A training on a cluster, and how far it is."""

    def __init__(self, nodes, folder, faces, *more, uri=""):
        self.nodes, self.ssl = nodes, folder / "out" / "ssl"
        self.arguments = ("--output", folder / "out", *faces, *SETTINGS, *more)
        self.uri = uri or f"sqlite:///{folder}/mlflow.db"
        self.driver = nodes.start("train_ssl", *self.arguments, uri=uri)
        self.nodes.wait_for(lambda: self.checkpoints, self.driver, "a first checkpoint")

    @property
    def checkpoints(self):
        return sorted(p.parent.name for p in self.ssl.glob("training/checkpoint_*/state.pt"))

    def newer_than(self, before):
        return lambda: self.checkpoints[-1:] > before[-1:] or self.driver.poll() is not None

    def lose_node(self, recovery, fault, happens):
        """Kill the first node beside the head, note how the work goes on, and wait for its end."""
        before, now = self.checkpoints, time.monotonic()
        self.nodes.kill(self.nodes.others[0])
        recovery(fault, happens, now, self.newer_than(before))
        self.nodes.finish("train_ssl", self.driver)

    def check(self, undisturbed=None, tolerance=1e-6):
        found = read_checkpoint(self.ssl / "model.pt")
        history = json.loads((self.ssl / "history.json").read_text())
        assert [h["epoch"] for h in history] == [1, 2, 3, 4]  # none twice, none left out
        assert all(bool(v.isfinite().all()) for v in found.state_dict.values())
        assert statuses(self.uri) == ["FINISHED"]
        for name, value in (undisturbed or {}).items():
            assert torch.allclose(value, found.state_dict[name].float(), rtol=tolerance, atol=tolerance), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory, faces):
    """Weights of the same training in one go."""
    folder = tmp_path_factory.mktemp("whole")
    done = run(
        "train_ssl", "--output", folder / "out", *faces, *SETTINGS, "--train.cpus_per_worker", 0.5, folder=folder
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {k: v.float() for k, v in read_checkpoint(folder / "out" / "ssl" / "model.pt").state_dict.items()}


@pytest.mark.parametrize("which", [0, 1])
def test_worker_killed(which, nodes, faces, whole, recovery, tmp_path):
    """Either of two, so that one of them was rank 0."""
    work = Training(nodes(3), tmp_path, faces)
    workers = sorted(ray_processes("RayTrainWorker", work.nodes.cluster.address), key=lambda p: p.create_time())
    before, now = work.checkpoints, time.monotonic()
    workers[which].send_signal(signal.SIGKILL)
    recovery(f"training worker {which + 1} of 2 killed", "all workers restart from the newest checkpoint", now,
             work.newer_than(before))  # fmt: skip
    work.nodes.finish("train_ssl", work.driver)
    work.check(whole)


def test_node_killed_with_a_spare(nodes, faces, whole, recovery, tmp_path):
    cluster = nodes(1, 2, 2)
    work = Training(cluster, tmp_path, faces)
    work.lose_node(recovery, "a node killed during training, with a spare", "workers restart on the remaining nodes")
    work.check(whole)


def test_node_with_readers_killed_without_a_spare(nodes, faces, whole, recovery, tmp_path):
    """Both workers are on the head, which they fill."""
    cluster = nodes(2, 1)
    work = Training(cluster, tmp_path, faces)
    work.lose_node(
        recovery,
        "the readers' node killed during training, without a spare",
        "faces are read on the trainers' nodes, without a reservation",
    )
    assert "reading on the trainer's node" in cluster.log("train_ssl")
    work.check(whole)


def test_node_with_a_worker_killed_without_a_spare(nodes, faces, recovery, tmp_path):
    """One worker on each node; the training then ends with other weights, so none are compared."""
    cluster = nodes(1, 1)
    elastic = ("--train.min_workers", 1, "--train.cpus_per_worker", 0.7, "--data.cpus_per_reader", 0.1)
    work = Training(cluster, tmp_path, faces, *elastic)
    work.lose_node(
        recovery,
        "a worker's node killed during training, without a spare, `train.min_workers` 1",
        "training continues with fewer workers",
    )
    assert "resumed at epoch" in cluster.log("train_ssl")
    work.check()


def test_tracking_server_killed(nodes, faces, whole, recovery, tmp_path):
    server = TrackingServer(tmp_path, str(tmp_path / "artifacts"))
    server.start()
    work = Training(nodes(3), tmp_path, faces, uri=server.uri)
    before, now = work.checkpoints, time.monotonic()
    server.kill()
    recovery("the tracking server killed", "training continues, points are lost; the next job closes the run",
             now, work.newer_than(before))  # fmt: skip
    server.start()
    try:
        work.nodes.finish("train_ssl", work.driver)
        work.check(whole)
    finally:
        server.kill()
