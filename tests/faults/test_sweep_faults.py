"""A sweep under a node's death. Beside tests/ray_jobs/test_tune.py, which kills the driver and single trials."""

import time

import pytest
from support.clusters import statuses
from support.training import TINY_TRAINING

from facelib.tuning.trials import TrialStore

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SETTINGS = (
    *TINY_TRAINING, "--train.epochs", 4, "--train.batch_size", 4, "--train.cpus_per_worker", 1,
    "--data.readers", 1, "--data.cpus_per_reader", 0.25,
    "--tune.space", '{"ssl.queue_size": {"grid": [16, 24, 32]}, "augment.strength": {"uniform": [0.0, 1.0]}}',
    "--tune.search", "random", "--tune.trials", 4, "--tune.scheduler", "none", "--tune.base", "false",
    "--tune.finalist_seeds", 0, "--tune.in_process", "true", "--tune.concurrency", 2,
)  # fmt: skip


def test_node_killed_during_a_sweep(nodes, faces, recovery, tmp_path):
    """No trial is lost, none trained twice: each has every epoch once, and one run in MLflow that ended well."""
    cluster = nodes(1, 2, 2)
    driver = cluster.start("tune", "--output", tmp_path / "out", *faces, *SETTINGS)
    folder = tmp_path / "out" / "sweep" / "trials"

    def reports():
        found = TrialStore(str(folder)).trials.values() if folder.is_dir() else []
        return sum(len(t.reports) for t in found)

    cluster.wait_for(lambda: reports() >= 2, driver, "two epochs of trials")
    assert driver.poll() is None, cluster.log("tune")
    node = cluster.node_of("ImplicitFunc")
    went_on, now = cluster.goes_on("tune", driver, "resumed at epoch", reports), time.monotonic()
    cluster.kill(node)
    recovery("a node killed during a sweep", "its trials restart on another node from their last checkpoints", now,
             went_on)  # fmt: skip
    cluster.finish("tune", driver)
    assert "resumed at epoch" in cluster.log("tune")
    trials = TrialStore(str(folder)).trials
    assert sorted(trials) == [0, 1, 2, 3]
    assert {t.state for t in trials.values()} == {"finished"}
    assert all([r.epoch for r in t.reports] == [1, 2, 3, 4] for t in trials.values())
    assert statuses(f"sqlite:///{tmp_path}/mlflow.db") == ["FINISHED"] * 5
