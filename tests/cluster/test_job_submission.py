"""`ray job submit` against a cluster that asks for a token, with data and checkpoints on S3."""

import re
import subprocess

import psutil
import pytest
from mlflow import MlflowClient
from support.clusters import Head, job_id
from support.commands import wait_for
from support.datasets import pattern
from support.storage import environment, keys
from support.training import TINY_TRAINING

from facelib.data import FaceDataset, encode_image
from facelib.models import read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.faults]
GENERATE = (
    "--generate.identities", 240, "--generate.images_per_identity", 3, "--generate.identities_per_part", 4,
    "--generate.identities_per_task", 1, "--generate.heldout_identities", 6, "--generate.actors", 1,
    "--tracking.system_metrics", "false",
)  # fmt: skip
TRAIN = (
    *TINY_TRAINING, "--train.epochs", 2, "--train.batch_size", 4, "--evaluate.pairs", 10,
    "--evaluate.baselines", "false", "--evaluate.bootstrap", 0, "--ssl.queue_size", 8,
)  # fmt: skip
OUTPUT = "s3://faces/run"


@pytest.fixture(scope="module")
def head(tmp_path_factory, s3):
    """A cluster whose nodes reach the S3 server."""
    head = Head(tmp_path_factory.mktemp("cluster"), **environment(s3))
    yield head
    head.stop()


def job(name, *arguments):
    return ["python", "-m", f"ray_jobs.{name}", "--output", OUTPUT, *arguments]


def runs(head):
    """{run name: status} of the MLflow runs so far."""
    client = MlflowClient(head.environment["MLFLOW_TRACKING_URI"])
    found = client.get_experiment_by_name("facelib")
    return [(r.info.run_name, r.info.status) for r in client.search_runs([found.experiment_id])] if found else []


def test_what_is_uploaded_is_what_runs(head):
    done = head.submit("python", "-c", "import facelib; print('from', facelib.__file__)")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "/working_dir_files/_ray_pkg_" in re.search(r"from (.*)", done.stdout)[1]


def test_nobody_comes_in_without_the_token(head):
    nobody = {**head.environment, "RAY_AUTH_TOKEN_PATH": str(head.folder / "none"), "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(["ray", "job", "list", "--address", head.address], env=nobody, capture_output=True, text=True)
    assert done.returncode != 0
    assert re.search(r"401|403|[Aa]uthenti|[Uu]nauthorized|token", done.stdout + done.stderr)


def test_the_job_server_listens_on_this_machine_only(head):
    family = {p.pid for p in [psutil.Process(head.process.pid), *psutil.Process(head.process.pid).children(True)]}
    listening = {(c.laddr.port, c.laddr.ip) for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN
                 and c.pid in family}  # fmt: skip
    assert {ip for port, ip in listening if port == head.dashboard} == {"127.0.0.1"}
    print(sorted(listening))


def test_a_failing_job_brings_back_its_exit_code_and_its_words(head):
    done = head.submit(*job("generate", "--generate.identitys", 3))
    assert done.returncode != 0
    assert "unknown setting (did you mean generate.identities?)" in done.stdout + done.stderr
    assert "exit code 2" in done.stdout + done.stderr


def test_a_canceled_job_is_continued_by_the_same_command(head, s3, monkeypatch):
    submitted = head.submit(*job("generate", *GENERATE), wait=False)
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    wait_for(lambda: [k for k in keys(s3, "run/faces/") if "/part-" in k], what="a first part")
    stopped = head.ray("job", "stop", "--address", head.address, job_id(submitted))
    assert "was stopped" in stopped.stdout + stopped.stderr
    assert "run/faces/manifest.json" not in keys(s3), "the job ended before it was stopped: nothing was tested"
    wait_for(lambda: [status for _, status in runs(head)] == ["FAILED"], what="the run's end")

    done = head.submit(*job("generate", *GENERATE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ of 60 parts already exist", done.stdout)
    assert f"wrote {OUTPUT}/faces, {OUTPUT}/heldout" in done.stdout
    assert [status for _, status in runs(head)] == ["FINISHED"]
    for name, value in environment(s3).items():
        monkeypatch.setenv(name, value)
    dataset = FaceDataset(f"{OUTPUT}/faces")
    dataset.verify()
    assert dataset.manifest.identities == 240
    assert [k for k in keys(s3, "run/") if k.endswith((".tmp", ".lock"))] == []


def test_training_and_evaluation_run_from_s3_to_s3(head, s3, monkeypatch):
    for name, wrote in (("train_ssl", "ssl/model.pt"), ("train_unpg", "unpg/model.pt")):
        done = head.submit(*job(name, *TRAIN))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"wrote {OUTPUT}/{wrote}" in done.stdout
        assert f"run/{wrote}" in keys(s3)
    done = head.submit(*job("evaluate", *TRAIN, "--evaluate.models", '["ssl/model.pt","unpg/model.pt"]'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "run/evaluation/results.json" in keys(s3)
    stages = '[{"job":"generate"},{"job":"train_ssl"},{"job":"evaluate"}]'
    done = head.submit(*job("pipeline", *GENERATE, *TRAIN, "--stages", stages))
    assert done.returncode == 0, done.stdout + done.stderr
    assert {status for _, status in runs(head)} == {"FINISHED"}
    for name in environment(s3):
        monkeypatch.setenv(name, environment(s3)[name])
    assert read_checkpoint(f"{OUTPUT}/unpg/model.pt").image_spec["template"] == "arcface"


def test_every_other_job_runs_from_s3_to_s3(head, s3, tmp_path, monkeypatch):
    """On the faces and the model of the tests before."""
    grid = '{"ssl.queue_size": {"grid": [8, 16]}}'
    trials = ("--tune.space", grid, "--tune.search", "grid", "--tune.finalist_seeds", 0, "--tune.base", "false",
              "--tune.in_process", "true", "--train.epochs", 1)  # fmt: skip
    for i in range(4):
        (tmp_path / f"p{i // 2}").mkdir(exist_ok=True)
        (tmp_path / f"p{i // 2}" / f"{i}.jpg").write_bytes(encode_image(pattern(i // 2, i)))
    own = ("--import_data.path", tmp_path, "--import_data.alignment", "none", "--data.dataset", "own")
    inspected = ("--inspect.sets", '["heldout"]', "--inspect.model", "ssl/model.pt")
    jobs = {
        "export": ((), "export/model.onnx"),
        "whiten": (("--whiten.faces", "heldout"), "ssl/model-whitened.pt"),
        "embed": (("--embed.input", "heldout"), "embeddings/manifest.json"),
        "export_images": (("--export_images.input", "heldout"), "image_tree/manifest.json"),
        "inspect_dataset": (inspected, "inspection/report.json"),
        "tune": ((*TRAIN, *trials), "sweep/best.yaml"),
        "import_data": (own, "own/manifest.json"),
    }  # fmt: skip
    for name, (arguments, wrote) in jobs.items():
        done = head.submit(*job(name, *arguments, "--tracking.system_metrics", "false"))
        assert done.returncode == 0, name + done.stdout + done.stderr
        assert f"run/{wrote}" in keys(s3), (name, keys(s3, "run/"))
    views = {key.rpartition("/")[2].partition(".")[0] for key in keys(s3, "run/sweep/tune/")}
    assert {"result", "progress", "events"} <= views  # Tune's experiment folder
    assert {status for _, status in runs(head)} == {"FINISHED"}
    for name, value in environment(s3).items():
        monkeypatch.setenv(name, value)
    FaceDataset(f"{OUTPUT}/own").verify()
    assert FaceDataset(f"{OUTPUT}/own").manifest.images == 4


def test_a_canceled_training_ends_its_run_and_goes_on(head, s3):
    """On the faces of the tests before."""
    long = (*TRAIN, "--train.epochs", 300, "--train.selection", "last", "--train.checkpoint_every", 2,
            "--name", "canceled")  # fmt: skip
    arguments = (*job("train_ssl"), *long, "--output", "s3://faces/canceled", "--data.dataset", f"{OUTPUT}/faces")
    submitted = head.submit(*arguments, wait=False)
    wait_for(lambda: [k for k in keys(s3, "canceled/") if k.endswith("state.pt")], what="a checkpoint")
    assert "was stopped" in head.ray("job", "stop", "--address", head.address, job_id(submitted)).stdout
    wait_for(lambda: ("canceled/train_ssl", "FAILED") in runs(head), what="the run's end")
    log = head.ray("job", "logs", "--address", head.address, job_id(submitted)).stdout
    assert "train_ssl: stopped by SIGTERM; the same command continues" in log
    again = head.submit(*arguments, wait=False)
    resumed = "resumed at epoch"
    wait_for(lambda: resumed in head.ray("job", "logs", "--address", head.address, job_id(again)).stdout, what=resumed)
    head.ray("job", "stop", "--address", head.address, job_id(again))
    wait_for(lambda: ("canceled/train_ssl", "FAILED") in runs(head), what="the run's end")
