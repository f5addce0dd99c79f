"""One Ray cluster for the tests that run jobs in this process."""

import pytest

from facelib.config import load_settings
from facelib.tracking import Run


@pytest.fixture(scope="session")
def ray_cluster():
    """A local cluster, started once."""
    from ray_jobs.session import cluster

    with cluster(load_settings(None, ["ray.object_store_gb=0.5"])):
        yield


@pytest.fixture
def tracking(tmp_path, monkeypatch):
    """A tracking store of the test's own; returns its URI."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def run(tracking):
    """An open MLflow run."""
    with Run.open(load_settings(None, ["tracking.system_metrics=false"]), "generate") as opened:
        yield opened
