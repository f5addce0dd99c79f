"""What all tests share: the support modules on the path, and no word to the outside."""

import functools
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
LIBRARY = Path(__file__).parent / "facelib"
pytest_plugins = ["support.gloo_pool", "support.ray_cluster"]
# Test processes and the workers of their clusters share few cores: threads that wait for each other cost five times
# the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")


@functools.cache
def has_gpu():
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses by the marks
def pytest_collection_modifyitems(items):
    """Long injections of faults run when they are asked for (`make faults`), tests of a GPU where there is one.

    What needs Ray is slow. Jobs come first and the library last: at the end, when a process has no other file to take,
    files are short.
    """
    items.sort(key=lambda item: item.path.is_relative_to(LIBRARY))
    for item in items:
        if "ray_cluster" in item.fixturenames:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("gpu") and not has_gpu():
            item.add_marker(pytest.mark.skip(reason="no GPU"))
    if not os.environ.get("FACELIB_FAULTS"):
        for item in items:
            if item.get_closest_marker("faults"):
                item.add_marker(pytest.mark.skip(reason="runs in `make faults` (FACELIB_FAULTS=1)"))
