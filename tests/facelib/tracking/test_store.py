"""Where runs go, stores that are not there, and folders that were copied, moved or have odd names."""

import json
import shutil
import socket
import time
import urllib.parse
from pathlib import Path

import pytest
from mlflow import MlflowClient
from support.tracking import new_store

from facelib.config import TrackingSettings, load_settings
from facelib.tracking import Run, TrackingError, check_store, tracking_uri
from facelib.tracking.store import sqlite_path


def settings(*overrides):
    return load_settings(None, ["tracking.system_metrics=false", *overrides])


def artifacts(run):
    """Folder of the run's artifacts."""
    uri = MlflowClient(run.uri).get_run(run.run_id).info.artifact_uri
    return Path(urllib.parse.unquote(urllib.parse.urlsplit(uri).path))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working folder; runs go to its ./runs."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("FACELIB_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def store(home):
    """The store of that folder, which saves making it."""
    (home / "runs").mkdir()
    new_store(home / "runs")


def test_where_runs_go(home, monkeypatch):
    assert tracking_uri(TrackingSettings()) == f"sqlite:///{home}/runs/mlflow.db"
    monkeypatch.setenv("FACELIB_HOME", f"{home}/project")
    assert tracking_uri(TrackingSettings()) == f"sqlite:///{home}/project/runs/mlflow.db"
    assert load_settings(None, ["output=runs/a"]).path("faces") == f"{home}/project/runs/a/faces"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(TrackingSettings()) == "http://server:5000"
    assert tracking_uri(TrackingSettings(uri="sqlite:////elsewhere.db")) == "sqlite:////elsewhere.db"


@pytest.mark.parametrize("kind", ["no database", "no folder", "no server", "no database server"])
def test_a_store_that_cannot_be_used_is_named_with_its_setting_or_variable(tmp_path, monkeypatch, kind):
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8" * 4000)
    uri = {
        "no database": f"sqlite:///{tmp_path}/photo.jpg",
        "no folder": f"sqlite:///{tmp_path}/photo.jpg/mlflow.db",
        "no server": "http://127.0.0.1:9",
        "no database server": "postgresql://me@127.0.0.1:9/mlflow",
    }[kind]
    with pytest.raises(TrackingError, match=f"^tracking.uri={uri}: MLflow cannot be used"):
        Run.open(settings(f"tracking.uri={uri}"), "evaluate")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(TrackingError, match=f"^MLFLOW_TRACKING_URI, in the environment: {uri}: MLflow cannot be used"):
        check_store(TrackingSettings())


def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_the_setting_says():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(TrackingError, match=r"no answer within 0.5 s; is it running\? tracking.timeout allows"):
            check_store(TrackingSettings(uri=uri, timeout=0.5))
        assert time.monotonic() - started < 120  # MLflow itself tries for minutes


@pytest.mark.parametrize("name", ["50%", "a#b", "plain", "with space, ümlaut"])
@pytest.mark.slow
def test_a_working_folder_may_have_any_name(home, monkeypatch, name):
    (home / name).mkdir()
    monkeypatch.chdir(home / name)
    with Run.open(settings(), "evaluate") as run:
        run.log_json({}, "a.json")
    assert sorted(path.name for path in home.iterdir()) == [name]
    assert sorted(path.name for path in (home / name / "runs").iterdir()) == ["mlartifacts", "mlflow.db"]
    assert (artifacts(run) / "a.json").read_text() == "{}"
    assert artifacts(run).is_relative_to(home / name / "runs")


def test_a_folder_that_mlflow_would_cut_at_its_question_mark_is_refused(home, monkeypatch):
    (home / "what?").mkdir()
    monkeypatch.chdir(home / "what?")
    with pytest.raises(TrackingError, match=r"what\?/runs/mlflow.db: .* has a \? in its name; set FACELIB_HOME"):
        Run.open(settings(), "evaluate")
    assert [path.name for path in home.iterdir()] == ["what?"]
    assert sqlite_path("sqlite:////a/b.db?timeout=3") == Path("/a/b.db")


@pytest.mark.parametrize("how", ["copied", "moved"])
def test_artifacts_of_a_project_that_was_copied_or_moved_go_below_it(home, monkeypatch, how):
    (home / "old" / "runs").mkdir(parents=True)
    new_store(home / "old" / "runs")
    monkeypatch.chdir(home / "old")
    with Run.open(settings(), "evaluate") as first:
        first.log_json({"first": 1}, "a.json")
        first.log_model(artifacts(first) / "a.json", "m", "backbone")
    monkeypatch.chdir(home)
    (shutil.copytree if how == "copied" else shutil.move)(home / "old", home / "new")
    before = sorted(home.glob("old/**/*"))
    monkeypatch.chdir(home / "new")
    with Run.open(settings(), "evaluate") as second:
        second.log_json({"second": 2}, "b.json")
        assert artifacts(second).is_relative_to(home / "new")
        assert (artifacts(second) / "b.json").exists()
        found = Run.attach(second.uri, first.run_id)
        assert json.loads((artifacts(found) / "a.json").read_text()) == {"first": 1}
        assert artifacts(found).is_relative_to(home / "new")
        [model] = found.client.get_run(first.run_id).outputs.model_outputs
        assert f"{home}/new/" in found.client.get_logged_model(model.model_id).artifact_location
    assert sorted(home.glob("old/**/*")) == before  # nothing is written there, and it does not come back


def test_a_link_to_the_folder_is_the_folder(home, monkeypatch):
    (home / "real").mkdir()
    monkeypatch.setenv("FACELIB_HOME", f"{home}/real")
    with Run.open(settings(), "evaluate") as first:
        pass
    (home / "link").symlink_to(home / "real")
    monkeypatch.setenv("FACELIB_HOME", f"{home}/link")
    with Run.open(settings(), "evaluate"):
        pass
    assert artifacts(first).is_relative_to(home / "real")


@pytest.mark.parametrize("name", ["/team/faces", "../faces", "team/../../faces", "/"])
def test_an_experiment_of_any_name_keeps_its_artifacts_beside_the_store(home, store, name):
    with Run.open(settings(f"tracking.experiment={name}"), "evaluate") as run:
        pass
    assert artifacts(run).resolve().is_relative_to(home / "runs" / "mlartifacts")
    experiment = run.client.get_experiment_by_name(name)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_deleted_experiment_is_named_with_what_to_do(home, store):
    with Run.open(settings("tracking.experiment=gone"), "evaluate") as run:
        experiment = run.client.get_experiment_by_name("gone").experiment_id
    run.client.delete_experiment(experiment)
    with pytest.raises(TrackingError, match=rf"=gone: .* deleted.* restore --experiment-id {experiment}"):
        Run.open(settings("tracking.experiment=gone"), "evaluate")
    run.client.restore_experiment(experiment)
    with Run.open(settings("tracking.experiment=gone"), "evaluate"):
        pass
