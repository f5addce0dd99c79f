"""Joining a cluster, and what its processes set up."""

import logging
import os

import ray

from facelib.config import load_settings
from ray_jobs.cluster import cluster, configure_data
from ray_jobs.logs import LEVEL_VARIABLE


def test_an_initialized_ray_is_used_and_left_running(ray_cluster):
    with cluster(load_settings(None, [])):
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_a_stream_without_progress_is_an_error_later_where_nodes_may_start(ray_cluster):
    context = ray.data.DataContext.get_current()
    configure_data(load_settings(None, ["ray.no_progress_minutes=2"]))
    assert context.execution_no_progress_timeout_s == 120
    configure_data(load_settings(None, ["ray.no_progress_minutes=2", "ray.autoscaling=true"]))
    assert context.execution_no_progress_timeout_s == 3600
    assert not context.enable_progress_bars


def test_workers_log_as_the_driver_does(ray_cluster):
    @ray.remote(runtime_env={
        "worker_process_setup_hook": "ray_jobs.cluster.setup_worker_process", "env_vars": {LEVEL_VARIABLE: "error"}
    })  # fmt: skip
    def look():
        logger = logging.getLogger("facelib.data")
        return logger.isEnabledFor(logging.WARNING), logger.isEnabledFor(logging.ERROR), os.environ["RAY_ADDRESS"]

    warning, error, address = ray.get(look.remote())
    assert (warning, error) == (False, True)
    assert address == ray.get_runtime_context().gcs_address


def test_a_process_without_a_share_of_a_gpu_sees_none(ray_cluster):
    @ray.remote(num_cpus=0.1)
    def visible():
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    @ray.remote(num_cpus=0.1)
    class Actor:
        def visible(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    assert ray.get(visible.remote()) == ""
    assert ray.get(Actor.remote().visible.remote()) == ""
