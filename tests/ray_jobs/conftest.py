"""What tests of jobs share beside the cluster of tests/support/ray_cluster.py."""

import pytest
import ray
from support.tracking import new_store

from facelib.config import load_settings
from facelib.tracking import Run


@pytest.fixture
def joined(ray_cluster):
    """Flags of a job in a process of its own on the session's cluster, which saves starting one."""
    return ("--ray.address", ray.get_runtime_context().gcs_address)


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """A tracking store of the test's own; returns its URI."""
    uri = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def run(tracking):
    """An open MLflow run."""
    with Run.open(load_settings(None, ["tracking.system_metrics=false"]), "generate") as opened:
        yield opened
