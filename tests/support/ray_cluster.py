"""A Ray cluster for the tests that run jobs in their own process."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = str(ROOT / "tests" / "support" / "plugins")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local cluster, started once. Its workers, and this process, find the components in tests/support/plugins."""
    from facelib.config import load_settings
    from ray_jobs.cluster import cluster

    sys.path.append(PLUGINS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(ROOT), PLUGINS]))
    with cluster(load_settings(None, ["ray.object_store_gb=0.5"])):
        yield
