"""Against real stores: a sqlite file, a killed process, a server that is not there."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from facelib.config import load_settings
from facelib.tracking import Run

ROOT = Path(__file__).parents[3]
HOLD_A_RUN = """
import sys, time
from facelib.config import load_settings
from facelib.tracking import Run
with Run.open(load_settings(None, sys.argv[1:]), "train_ssl") as run:
    print(run.run_id, flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """URI of a sqlite store; tests keep apart by experiment, because a new file takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('tracking')}/store/mlflow.db"


@pytest.fixture
def arguments(store, request):
    """Overrides for runs in an experiment of the test's own."""
    return [f"tracking.uri={store}", f"tracking.experiment={request.node.name}", "tracking.system_metrics=false"]


def read(run):
    """What the store holds about a run."""
    return MlflowClient(tracking_uri=run.uri).get_run(run.run_id)


def test_a_run_keeps_params_metrics_and_artifacts(store, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, [*arguments, "train.epochs=7", "name=first"])
    with Run.open(settings, "train_ssl") as run:
        assert read(run).info.status == "RUNNING"
        run.log_metrics({"loss": 2.5, "accuracy": 0.25, "undefined": float("nan")}, step=3)
        run.log_metrics({"loss": 1.5}, step=4)
        run.set_tag("note", "hello")
        run.log_json({"a": [1, 2]}, "deep/notes.json")
        (tmp_path / "model.pt").write_bytes(b"weights")
        run.log_file(tmp_path / "model.pt", "files")
    found = read(run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "first/train_ssl"
    assert found.data.params["train.epochs"] == "7"
    assert found.data.params["ssl.temperature"] == "0.07"
    assert found.data.tags["note"] == "hello"
    assert found.data.metrics == {"loss": 1.5, "accuracy": 0.25}
    history = MlflowClient(tracking_uri=store).get_metric_history(run.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(3, 2.5), (4, 1.5)]
    # Artifacts lie beside their database, whatever folder the job was started in.
    artifacts = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    names = {p.name: p for p in artifacts.rglob("*") if p.is_file() and run.run_id in p.parts}
    assert set(names) == {"settings.json", "notes.json", "model.pt"}
    assert names["model.pt"].read_bytes() == b"weights"
    assert names["model.pt"].parent.name == "files"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_an_exception_ends_the_run_as_failed_and_the_next_try_takes_it_up(arguments):
    settings = load_settings(None, arguments)
    with pytest.raises(ZeroDivisionError), Run.open(settings, "evaluate") as run:
        1 / 0  # noqa: B018
    assert read(run).info.status == "FAILED"
    assert read(run).data.tags["facelib.error"] == "ZeroDivisionError: division by zero"
    with Run.open(settings, "evaluate") as again:
        assert again.run_id == run.run_id
        assert read(run).info.status == "RUNNING"
    assert read(run).info.status == "FINISHED"
    assert "facelib.error" not in read(run).data.tags
    with Run.open(settings, "evaluate") as third:
        assert third.run_id != run.run_id


@pytest.mark.parametrize(("code", "status"), [(0, "FINISHED"), (None, "FINISHED"), (143, "FAILED"), ("text", "FAILED")])
def test_leaving_by_exit_is_success_only_with_code_zero(arguments, code, status):
    with pytest.raises(SystemExit), Run.open(load_settings(None, arguments), "evaluate") as run:
        raise SystemExit(code)
    assert read(run).info.status == status


@pytest.mark.slow
def test_a_killed_process_leaves_a_run_that_is_ended_and_taken_up(arguments):
    settings = load_settings(None, arguments)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_RUN, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        run_id = process.stdout.readline().strip()
        held = Run.attach(settings.tracking.uri, run_id)
        with Run.open(settings, "train_ssl") as beside:
            assert beside.run_id != run_id  # It is somebody's who is alive.
            assert read(held).info.status == "RUNNING"
    finally:
        process.kill()
    # Killed, not yet collected: not a running process, either.
    while Path(f"/proc/{process.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    assert read(held).info.status == "RUNNING"
    with Run.open(settings, "train_unpg") as other:
        assert other.run_id != run_id
        assert read(held).info.status == "FAILED"
    process.wait()
    changed = load_settings(None, [*arguments, "ssl.temperature=0.1"])
    with Run.open(changed, "train_ssl") as different:
        assert different.run_id != run_id
    with Run.open(settings, "train_ssl") as again:
        assert again.run_id == run_id
    assert read(again).info.status == "FINISHED"


@pytest.mark.slow
def test_a_process_that_is_killed_while_it_opens_a_run_leaves_one_that_is_taken_up(store, arguments, request):
    dies = f"import mlflow, os; mlflow.MlflowClient.set_tag = lambda *tag: os._exit(9)\n{HOLD_A_RUN}"
    killed = subprocess.run([sys.executable, "-c", dies, *arguments], cwd=ROOT)
    assert killed.returncode == 9
    client = MlflowClient(store)
    [left] = client.search_runs([client.get_experiment_by_name(request.node.name).experiment_id])
    assert left.info.status == "RUNNING"
    assert not left.data.params
    with Run.open(load_settings(None, arguments), "train_ssl") as again:
        assert again.run_id == left.info.run_id
    assert read(again).data.params["ssl.temperature"] == "0.07"
    assert read(again).info.status == "FINISHED"


def test_an_attached_run_is_logged_to_and_left_open(store, arguments):
    with Run.open(load_settings(None, arguments), "evaluate") as run:
        Run.attach(store, run.run_id).log_metrics({"from the worker": 1})
        assert read(run).info.status == "RUNNING"
    assert read(run).data.metrics == {"from the worker": 1}


def test_runs_nest(arguments):
    settings = load_settings(None, arguments)
    with (
        Run.open(settings, "pipeline") as parent,
        Run.open(settings, "evaluate", name="judged", parent=parent.run_id) as child,
    ):
        pass
    assert read(child).data.tags["mlflow.parentRunId"] == parent.run_id
    assert read(child).info.run_name == "judged"
    assert "mlflow.parentRunId" not in read(parent).data.tags


def test_jobs_that_start_together_share_a_new_experiment(arguments):
    settings = load_settings(None, arguments)
    with ThreadPoolExecutor(6) as pool:
        runs = list(pool.map(lambda job: Run.open(settings, f"job {job}"), range(6)))
    assert len({read(run).info.experiment_id for run in runs}) == 1
    for run in runs:
        run.end("FINISHED")


def test_names_that_mlflow_does_not_take(arguments):
    settings = load_settings(None, [*arguments, "output=/data/it's mine"])
    with Run.open(settings, "evaluate") as run:
        run.log_metrics({"stage_seconds/2_training (UNPG), α=1": 3.0, "lfw/tar_at_far_1e-06": 0.5})
    metrics = read(run).data.metrics
    assert sorted(metrics.values()) == [0.5, 3.0]
    assert metrics["lfw/tar_at_far_1e-06"] == 0.5


def test_a_number_tells_runs_of_one_name_apart(arguments):
    settings = load_settings(None, [*arguments, "name=first"])
    names = []
    for _ in range(3):
        with Run.open(settings, "evaluate") as run:
            names.append(read(run).info.run_name)
    with Run.open(settings, "evaluate", name="first/evaluate later") as other:
        names.append(read(other).info.run_name)
    assert names == ["first/evaluate", "first/evaluate #2", "first/evaluate #3", "first/evaluate later"]


def test_a_run_says_who_started_it_from_which_code_and_what_it_does(arguments):
    settings = load_settings(None, [*arguments, "train.epochs=7"])
    with Run.open(settings, "train_ssl", about="Label-free training.\n\nMore words.") as run:
        tags = read(run).data.tags
    assert tags["mlflow.user"]
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("ray_jobs/train_ssl.py", "LOCAL")
    assert tags["mlflow.note.content"].startswith("Label-free training.\n\nResults: `")
    assert "epochs: 7" in tags["mlflow.note.content"]
    assert "More words" not in tags["mlflow.note.content"]
    assert f"mlflow ui --backend-store-uri {settings.tracking.uri}" == run.where


def test_datasets_are_inputs_with_role_digest_and_counts(arguments):
    with Run.open(load_settings(None, arguments), "train_ssl") as run:
        for _ in range(2):  # a resumed job says it again
            run.log_dataset("faces", "/data/faces", "a" * 64, "train", images=12, identities=4)
        run.log_dataset("heldout", "/data/heldout", "b" * 64, "validation", images=3)
    found = {i.dataset.name: i for i in read(run).inputs.dataset_inputs}
    assert set(found) == {"faces", "heldout"}
    assert found["faces"].dataset.digest == "a" * 8
    assert json.loads(found["faces"].dataset.profile) == {"images": 12, "identities": 4}
    assert json.loads(found["faces"].dataset.source) == {"uri": "/data/faces"}
    assert {name: [t.value for t in i.tags] for name, i in found.items()} == {
        "faces": ["train"], "heldout": ["validation"]
    }  # fmt: skip


def test_models_are_linked_to_their_run_and_registered_if_asked(store, arguments, tmp_path):
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "MLmodel").write_text("flavors: {}")
    with Run.open(load_settings(None, arguments), "train_ssl") as run:
        run.log_model(tmp_path / "model.pt", "ssl", "backbone", best_epoch=3)
        run.log_model(tmp_path / "folder", "embedder", "pyfunc", register="faces")
        run.log_model(tmp_path / "folder", "embedder", "pyfunc", register="faces")
    client = MlflowClient(store, store)
    outputs = [client.get_logged_model(o.model_id) for o in read(run).outputs.model_outputs]
    assert sorted(m.name for m in outputs) == ["embedder", "embedder", "ssl"]
    ssl = next(m for m in outputs if m.name == "ssl")
    assert (ssl.status, ssl.source_run_id, ssl.params) == ("READY", run.run_id, {"best_epoch": "3"})
    assert [p.name for p in Path(ssl.artifact_location.removeprefix("file://")).iterdir()] == ["model.pt"]
    assert [v.version for v in client.search_model_versions("name = 'faces'")] == [2, 1]
    linked = [json.loads(m.tags["mlflow.modelVersions"]) for m in outputs if m.name == "embedder"]
    assert sorted(link["version"] for (link,) in linked) in ([1, 2], ["1", "2"])
    assert {link["name"] for (link,) in linked} == {"faces"}


def test_a_server_that_goes_away_loses_points_not_the_training(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with Run.attach("http://127.0.0.1:9", "0" * 32) as run:
        run.log_metrics({"loss": 1.0})
        run.log_json({}, "a.json")
    warnings = [record.getMessage() for record in caplog.records if record.name == "facelib.tracking.run"]
    assert len(warnings) == 1
    assert "http://127.0.0.1:9 rejected metrics" in warnings[0]


def test_a_store_that_is_waited_for_in_vain_is_left_alone_for_a_while(store, arguments):
    with Run.open(load_settings(None, arguments), "train_ssl") as run:
        asked, log_batch = [], run.client.log_batch

        def broken(*args, **kwargs):
            asked.append(time.monotonic())
            time.sleep(0.1)
            raise ConnectionError

        run.client.log_batch = broken
        run.log_metrics({"loss": 4.0}, step=1)
        run.log_metrics({"loss": 3.0}, step=2)
        assert len(asked) == 1  # the second was not tried
        run.client.log_batch = log_batch
        end = time.monotonic() + 300
        while not run.steps("loss") and time.monotonic() < end:  # ten times as long as the vain attempt took
            run.log_metrics({"loss": 2.0}, step=3)
            time.sleep(0.1)
        assert run.steps("loss") == {3}
