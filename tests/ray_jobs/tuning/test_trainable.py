"""Resources of trials; what a trial trains is tested on a real cluster in tests/ray_jobs/test_tune.py."""

import pytest
import ray

from facelib.config import load_settings
from ray_jobs.errors import JobError
from ray_jobs.tuning.trainable import concurrency, trial_resources


@pytest.fixture
def nodes(monkeypatch):
    """Function: a cluster of nodes with so many CPUs each."""

    def make(*cpus):
        alive = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]
        monkeypatch.setattr(ray, "nodes", lambda: alive)

    return make


def settings(*overrides):
    base = ("train.cpus_per_worker=1", "data.readers=1", "data.cpus_per_reader=0.5")
    return load_settings(None, [*base, *overrides])


@pytest.mark.parametrize(
    ("cpus", "overrides", "trials"),
    [
        ((4,), (), 2),  # a worker and two readers are 2 CPUs
        ((4, 4), ("train.workers=2",), 2),
        ((1.5,), (), 1),  # a trial that is alone manages with one reader
        ((4,), ("tune.concurrency=1",), 1),
        ((1,), ("ray.autoscaling=true",), 1),
        ((1,), ("ray.autoscaling=true", "tune.concurrency=6"), 6),
    ],
)
def test_as_many_trials_as_fit_with_their_readers(nodes, cpus, overrides, trials):
    nodes(*cpus)
    assert concurrency(settings(*overrides)) == trials


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.cpus_per_worker=9",), r"no trial fits on the cluster: train\.workers=1 of 9 CPU each"),
        (("tune.concurrency=3",), r"tune\.concurrency: 3 trials at a time, but only 2 fit"),
    ],
)
def test_what_does_not_fit_is_refused(nodes, overrides, message):
    nodes(4)
    with pytest.raises(JobError, match=message):
        concurrency(settings(*overrides))


def test_a_trial_that_only_waits_for_its_workers_reserves_no_cpu():
    assert trial_resources(settings("tune.in_process=true")) == {"CPU": 1}
    assert "CPU" not in trial_resources(settings())
