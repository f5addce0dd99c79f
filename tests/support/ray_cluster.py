"""A Ray cluster for the tests that run jobs in their own process."""

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gloo_pool import LastingPool

ROOT = Path(__file__).parents[2]
PLUGINS = str(ROOT / "tests" / "support" / "plugins")


@pytest.fixture(scope="session")
def ray_cluster(lasting_pool: LastingPool) -> Iterator[None]:
    """A local cluster, started once. Its workers, and this process, find the components in tests/support/plugins."""
    from facelib.config import load_settings
    from facelib.utils.process import return_memory
    from ray_jobs.cluster import cluster

    lasting_pool.end()
    return_memory()  # What the library's tests have freed; several clusters share the machine's.
    sys.path.append(PLUGINS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT), PLUGINS]))
    with cluster(load_settings(None, ["ray.object_store_gb=0.5"])):
        yield


@contextlib.contextmanager
def training_here() -> Iterator[None]:
    """Trainings run in this process, as those of a sweep may: a worker group takes ten processes and their imports."""
    from ray_jobs.training.plan import TrainingPlan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingPlan, "create", staticmethod(functools.partial(TrainingPlan.create, in_process=True)))
        yield


@pytest.fixture(scope="module")
def module_in_process() -> Iterator[None]:
    """`training_here` for a module."""
    with training_here():
        yield


@pytest.fixture
def in_process() -> Iterator[None]:
    """`training_here` for one test."""
    with training_here():
        yield
