"""Training under faults on several nodes. Beside tests/ray_jobs/test_engine.py, which kills a worker and the driver and
damages a checkpoint in every `make test`.
"""

import json
import time

import pytest
import torch
from support.clusters import statuses
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

    def lose(self, kill, recovery, fault, happens, says="resumed at epoch"):
        """Kill something, note how the work goes on after the log says so, and wait for its end."""
        went_on = self.nodes.goes_on("train_ssl", self.driver, says, lambda: self.checkpoints[-1:])
        now = time.monotonic()
        kill()
        recovery(fault, happens, now, went_on)
        self.nodes.finish("train_ssl", self.driver)
        assert says in self.nodes.log("train_ssl")

    def lose_node(self, node, *noted, **more):
        """Kill a node, as `lose`."""
        self.lose(lambda: self.nodes.kill(node), *noted, **more)

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
    worker = sorted(work.nodes.processes("RayTrainWorker"), key=lambda p: p.create_time())[which]
    fault = f"training worker {which + 1} of 2 killed"
    work.lose(worker.kill, recovery, fault, "all workers restart from the newest checkpoint")
    work.check(whole)


def test_node_killed_with_a_spare(nodes, faces, whole, recovery, tmp_path):
    cluster = nodes(1, 2, 2)
    work = Training(cluster, tmp_path, faces)
    node = cluster.node_of("RayTrainWorker")
    fault = "a worker's node killed during training, with a spare"
    work.lose_node(node, recovery, fault, "workers restart on the remaining nodes")
    work.check(whole)


def test_node_with_readers_killed_without_a_spare(nodes, faces, whole, recovery, tmp_path):
    """Both workers are on the head, which they fill."""
    cluster = nodes(2, 1)
    work = Training(cluster, tmp_path, faces)
    work.lose_node(
        cluster.others[0],
        recovery,
        "the readers' node killed during training, without a spare",
        "faces are read on the trainers' nodes, without a reservation",
        says="reading on the trainer's node",
    )
    work.check(whole)


def test_node_with_a_worker_killed_without_a_spare(nodes, faces, recovery, tmp_path):
    """One worker on each node; the training then ends with other weights, so none are compared."""
    cluster = nodes(1, 1)
    elastic = ("--train.min_workers", 1, "--train.cpus_per_worker", 0.7, "--data.cpus_per_reader", 0.1)
    work = Training(cluster, tmp_path, faces, *elastic)
    work.lose_node(
        cluster.others[0],
        recovery,
        "a worker's node killed during training, without a spare, `train.min_workers` 1",
        "training continues with fewer workers",
    )
    work.check()


def test_tracking_server_killed(nodes, faces, whole, recovery, tmp_path):
    server = TrackingServer(tmp_path, str(tmp_path / "artifacts"))
    server.start()
    work = Training(nodes(3), tmp_path, faces, uri=server.uri)
    before, now = work.checkpoints, time.monotonic()
    server.kill()
    recovery("the tracking server killed", "training continues, points are lost; the next job closes the run",
             now, lambda: work.checkpoints[-1:] > before[-1:] or work.driver.poll() is not None)  # fmt: skip
    server.start()
    try:
        work.nodes.finish("train_ssl", work.driver)
        work.check(whole)
    finally:
        server.kill()
