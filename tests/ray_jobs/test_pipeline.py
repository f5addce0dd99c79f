"""The whole story, small: faces, label-free training, evaluation, and the same command again."""

import json

import pytest
import yaml
from mlflow import MlflowClient
from support.commands import run_here

from facelib.config import SettingsError, StageSettings, load_settings
from facelib.tracking import Run
from ray_jobs.errors import JobError
from ray_jobs.pipeline import pipeline, stage_settings, validate

TINY = {
    "name": "tiny",
    "generate": {
        "identities": 16, "images_per_identity": 2, "heldout_identities": 6, "identities_per_part": 16,
        "identities_per_task": 4, "actors": 1,
    },
    "model": {
        "name": "iresnet", "embedding_size": 16,
        "options": {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2},
    },
    "ssl": {"queue_size": 16},
    "train": {"epochs": 2, "batch_size": 8, "precision": "float32", "threads": 1, "selection": "last"},
    "data": {"readers": 1},
    "evaluate": {"bootstrap": 20, "fars": [0.1], "sets": ["heldout"], "models": ["ssl/model.pt", "unpg/model.pt"]},
    "tracking": {"system_metrics": False},
    "stages": [
        {"job": "generate", "name": "faces"},
        {"job": "train_ssl"},
        {"job": "train_unpg", "set": {"model.init_from": "ssl/model.pt", "train.epochs": 1}},
        {"job": "evaluate", "set": {"evaluate.bootstrap": 30, "seed": 3}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where everything goes; the configuration is in it."""
    path = tmp_path_factory.mktemp("pipeline")
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def first(folder, ray_cluster, module_in_process):
    """(standard output, MLflow's runs) of the pipeline's first run."""
    return run_pipeline(folder), runs(folder)


def run_pipeline(folder):
    done = run_here("pipeline", "--config", folder / "tiny.yaml", "--output", folder / "out", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def runs(folder):
    """(parents, children by parent id) in MLflow, oldest first."""
    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("facelib").experiment_id
    found = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    parents = [r for r in found if r.data.tags["facelib.job"] == "pipeline"]
    children = {p.info.run_id: [] for p in parents}
    for r in found:
        if r not in parents:
            children[r.data.tags["mlflow.parentRunId"]].append(r)
    return parents, list(children.values())


@pytest.mark.slow
def test_faces_training_and_evaluation_in_one_command(folder, first):
    first, (parents, [children]) = first
    assert first.strip().splitlines()[-1].endswith(f"wrote {folder}/out/")
    assert [line for line in first.splitlines() if line.startswith("── ")] == [
        "── 1/4 faces ──",
        "── 2/4 train_ssl ──",
        "── 3/4 train_unpg ──",
        "── 4/4 evaluate ──",
    ]
    rows = [line.split("│")[1:4] for line in first[first.index("tiny: stages") :].splitlines() if line.startswith("│")]
    assert [(stage.strip(), wrote.strip()) for stage, _, wrote in rows] == [
        ("faces", f"{folder}/out/faces, {folder}/out/heldout"),
        ("train_ssl", f"{folder}/out/ssl/model.pt"),
        ("train_unpg", f"{folder}/out/unpg/model.pt"),
        ("evaluate", f"{folder}/out/evaluation/results.json"),
    ]
    result = json.loads((folder / "out" / "evaluation" / "results.json").read_text())
    assert set(result["reports"]) == {"ssl", "unpg", "untrained", "raw pixels", "whitened pixels", "whitened LBP"}
    assert result["models"]["ssl"]["training"]["epoch"] == 2
    assert [p.info.status for p in parents] == ["FINISHED"]
    assert [(c.info.run_name, c.info.status) for c in children] == [
        ("tiny/faces", "FINISHED"),
        ("tiny/train_ssl", "FINISHED"),
        ("tiny/train_unpg", "FINISHED"),
        ("tiny/evaluate", "FINISHED"),
    ]
    stages = ["1_faces", "2_train_ssl", "3_train_unpg", "4_evaluate"]
    assert {f"stage_seconds/{stage}" for stage in stages} == set(parents[0].data.metrics)
    # What a stage sets is its own.
    assert [c.data.params.get("evaluate.bootstrap") for c in children] == [None, None, None, "30"]
    assert [c.data.params["seed"] for c in children] == ["0", "0", "0", "3"]


@pytest.mark.slow
def test_the_same_command_again_makes_nothing_twice(folder, first):
    out = folder / "out"
    kept = [
        out / "ssl" / "model.pt",
        out / "unpg" / "model.pt",
        *sorted((out / "faces").glob("part-*")),
        *sorted((out / "heldout").glob("part-*")),
    ]
    before = [(p.stat().st_mtime_ns, p.read_bytes()) for p in kept]
    assert len(before) == 4
    results = (out / "evaluation" / "results.json").read_text()
    second = run_pipeline(folder)
    assert "model.pt exists already" in second
    assert [(p.stat().st_mtime_ns, p.read_bytes()) for p in kept] == before
    assert (out / "evaluation" / "results.json").read_text() == results
    parents, children = runs(folder)
    assert [p.info.status for p in parents] == ["FINISHED", "FINISHED"]
    assert [len(c) for c in children] == [4, 4]


@pytest.fixture
def small(tmp_path):
    """Function: the tiny pipeline with other stages, below `tmp_path`."""

    def build(*stages):
        tree = {**TINY, "output": str(tmp_path / "out"), "stages": list(stages)}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
        return load_settings(tmp_path / "small.yaml")

    return build


@pytest.fixture
def parent(tracking):
    """The pipeline's own run."""
    with Run.open(load_settings(None, ["tracking.system_metrics=false"]), "pipeline") as opened:
        yield opened


def test_a_wrong_stage_stops_everything_before_it_starts(small, tmp_path):
    settings = small({"job": "generate"}, {"job": "train_ssl", "name": "warm-up", "set": {"train.epoch": 3}})
    with pytest.raises(SettingsError, match=r"stage warm-up: train\.epoch: unknown setting \(did you mean train\.e"):
        pipeline(settings)
    assert not (tmp_path / "out").exists()
    with pytest.raises(SettingsError, match="stages: empty"):
        pipeline(small())


def test_a_start_that_no_earlier_stage_writes_stops_everything(small, tmp_path):
    start = {"job": "train_unpg", "set": {"model.init_from": "ssl/model.pt"}}
    with pytest.raises(SettingsError, match=r"stage train_unpg: model\.init_from: .*ssl/model\.pt does not exist"):
        pipeline(small({"job": "generate"}, start, {"job": "train_ssl"}))
    assert not (tmp_path / "out").exists()
    validate(small({"job": "generate"}, {"job": "train_ssl"}, start))


def test_a_failing_stage_is_named_and_the_next_is_not_begun(small, parent, tmp_path):
    settings = small({"job": "evaluate", "name": "too early"}, {"job": "generate"})
    with pytest.raises(JobError, match=r"stage 1, too early, failed: .*heldout is no face dataset"):
        pipeline(settings, parent)
    assert not (tmp_path / "out").exists()
    client = MlflowClient(tracking_uri=parent.uri)
    found = client.search_runs([client.get_experiment_by_name("facelib").experiment_id])
    assert {r.info.run_name: r.info.status for r in found if r.info.run_id != parent.run_id} == {
        f"{settings.name}/too early": "FAILED"
    }


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"train.epochs": "many"}, r"stage train_ssl: train\.epochs: .*got 'many'"),
        ({"trian.epochs": 3}, r"stage train_ssl: trian: unknown setting"),
        ({"name.first": "x"}, r"stage train_ssl: name\.first: unknown setting"),
        ({"train.warmup_epochs": 9}, r"stage train_ssl: train\.warmup_epochs=9"),
    ],
)
def test_settings_of_a_stage_are_checked(small, setting, message):
    with pytest.raises(SettingsError, match=message):
        stage_settings(small(), StageSettings(job="train_ssl", set=setting))


def test_settings_of_a_stage_lie_over_those_of_the_pipeline(small):
    own = stage_settings(small(), StageSettings(job="evaluate", set={"seed": 7, "train": {"epochs": 5}}))
    assert (own.seed, own.train.epochs, own.ssl.queue_size) == (7, 5, 16)
