"""What Ray worker processes run first, on a cluster that is joined and on one that was started here."""

import gc
import logging
import os

import ray
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

from ray_jobs.logs import LEVEL_VARIABLE


def test_workers_log_as_the_driver_does_look_for_garbage_less_and_know_their_cluster(ray_cluster):
    @ray.remote(runtime_env={
        "worker_process_setup_hook": "ray_jobs.worker_setup.setup_worker_process", "env_vars": {LEVEL_VARIABLE: "error"}
    })  # fmt: skip
    def look():
        logger = logging.getLogger("facelib.data")
        enabled = logger.isEnabledFor(logging.WARNING), logger.isEnabledFor(logging.ERROR)
        return enabled, gc.get_threshold()[0], os.environ["RAY_ADDRESS"]

    enabled, threshold, address = ray.get(look.remote())
    assert enabled == (False, True)
    assert threshold == 100_000
    assert address == ray.get_runtime_context().gcs_address


def test_workers_of_a_local_cluster_are_set_up_without_a_runtime_environment(ray_cluster):
    @ray.remote
    def look():
        context = ray.get_runtime_context()
        return dict(context.runtime_env), gc.get_threshold()[0], os.environ["RAY_ADDRESS"] == context.gcs_address

    assert ray.get(look.remote()) == ({}, 100_000, True)
    assert WORKER_PROCESS_SETUP_HOOK_ENV_VAR not in os.environ  # A cluster that someone else starts here has none.
