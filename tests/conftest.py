"""What all tests share: the support modules on the path, and no word to the outside."""

import functools
import gc
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))
# Files that take longest, longest first: what the others of several processes still have to do after them is short.
LONGEST = (
    "ray_jobs/training/test_driver.py", "ray_jobs/test_tune.py", "ray_jobs/test_generate.py", "test_published.py",
    "test_tutorial.py", "ray_jobs/test_cli.py", "ray_jobs/test_import_data.py", "ray_jobs/test_train_ssl.py",
    "test_gpu_benchmark.py", "ray_jobs/training/test_online_faces.py", "ray_jobs/test_evaluate.py",
    "ray_jobs/tuning/test_state.py", "ray_jobs/test_embed.py",
)  # fmt: skip
pytest_plugins = ["support.gloo_pool", "support.ray_cluster"]
# Test processes and the workers of their clusters share few cores: threads that wait for each other cost five times
# the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "120000")  # until a next test reads faces
os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")  # of each node's processes, which no test looks at
# Look for new logs twice a second, not ten times: a session of tests has hundreds of them.
os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "1")


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect without looking for garbage: thousands of tests live until the end, and so do the modules they import."""
    from facelib.utils.process import look_for_garbage_less

    gc.disable()
    collected = yield
    gc.freeze()
    gc.enable()
    look_for_garbage_less()
    return collected


@functools.cache
def has_gpu():
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(items):
    """Long injections of faults run when they are asked for (`make faults`), tests of a GPU where there is one.

    What needs Ray is slow. Files without such tests come first: a cluster takes a share of a core even while no test
    needs it.
    """
    longest = {TESTS / name: rank for rank, name in enumerate(LONGEST)}
    on_ray = {item.path for item in items if "ray_cluster" in item.fixturenames}
    items.sort(key=lambda item: (item.path in on_ray, longest.get(item.path, len(longest))))
    for item in items:
        if "ray_cluster" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no GPU"))
    if not os.environ.get("FACELIB_FAULTS"):
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="runs in `make faults` (FACELIB_FAULTS=1)"))
