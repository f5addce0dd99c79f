"""What the driver decides once, and what decides the trained weights."""

import pickle

import pytest
from support.datasets import write_dataset

from facelib.config import change_settings, load_settings
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.online_faces import training_faces
from ray_jobs.training.plan import TrainingPlan, training_spec


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    write_dataset(folder / "faces", identities=8, images=3, per_part=4, per_group=2)
    write_dataset(folder / "heldout", identities=4, images=3, first=1000)
    return load_settings(None, [f"output={folder}", "train.epochs=5"])


def test_a_plan_is_plain_data_with_absolute_paths(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = settings.model_copy(update={"output": "runs/here"})
    plan = TrainingPlan.create(relative, "ssl", f"{tmp_path}/ssl", stop_epoch=3)
    assert plan.settings.output == f"{tmp_path}/runs/here"
    assert (plan.storage, plan.last_epoch) == (f"{tmp_path}/ssl/training", 3)
    assert TrainingPlan.create(settings, "ssl", "x").last_epoch == 5
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert TrainingPlan.create(settings, "ssl", "x", face_pool="faces-1").face_pool == "faces-1"


@pytest.mark.parametrize(
    ("change", "decides"),
    [
        ({"train.learning_rate": 0.3}, True),
        ({"ssl.queue_size": 99}, True),
        ({"evaluate.pairs": 77}, True),
        ({"data.window_row_groups": 3}, True),
        ({"unpg.margin": 0.1}, False),
        ({"train.max_failures": 9}, False),
        ({"train.sets": ["lfw.bin"]}, False),
        ({"train.flip": "sum", "train.selection_metric": "auc", "evaluate.published": "unpg"}, False),
        ({"data.readers": 5}, False),
        ({"data.cache_dir": "/disk"}, False),
        ({"augment.device": "cpu"}, False),
        ({"augment.operations": ["Invert"]}, True),
        ({"augment.policy": "moco_v2"}, True),
        ({"augment.decoder": "nvjpeg"}, True),
        ({"ssl.epochs_per_pass": 3}, True),
    ],
)
def test_the_spec_holds_what_decides_the_weights(settings, change, decides):
    faces = StoredFaces(settings.path("faces"))
    before = training_spec(settings, faces, "ssl")
    after = training_spec(change_settings(settings, change, "test"), faces, "ssl")
    assert (before != after) == decides


def test_augmentation_by_default_is_no_entry(settings):
    """Trainings from before there was a choice continue."""
    spec = training_spec(settings, StoredFaces(settings.path("faces")), "ssl")
    assert {"augment.magnitude", "augment.options"} <= set(spec)
    assert not {"augment.operations", "augment.policy", "augment.decoder"} & set(spec)


def test_rules_of_evaluation_sets_decide_where_these_select(settings):
    faces = StoredFaces(settings.path("faces"))
    by_sets = {"train.selection": "sets", "train.sets": ["lfw.bin"]}
    before = training_spec(change_settings(settings, by_sets, "test"), faces, "ssl")
    # A training that a former version began has none of them.
    assert not {"train.selection_sets", "train.selection_metric", "train.flip", "evaluate.published"} & before.keys()
    for change in ({"train.flip": "sum"}, {"train.selection_metric": "auc"}, {"train.selection_sets": ["lfw"]},
                   {"evaluate.published": "unpg"}, {"evaluate.accuracy_rule": "best_threshold"}):  # fmt: skip
        assert training_spec(change_settings(settings, {**by_sets, **change}, "test"), faces, "ssl") != before


def test_an_elastic_training_may_change_its_workers(settings):
    faces = StoredFaces(settings.path("faces"))
    two, three = (change_settings(settings, {"train.workers": n, "train.min_workers": 1}, "test") for n in (2, 3))
    assert training_spec(two, faces, "ssl") == training_spec(three, faces, "ssl")
    fixed = change_settings(settings, {"train.workers": 3}, "test")
    assert training_spec(settings, faces, "ssl") != training_spec(fixed, faces, "ssl")


def test_limits_of_the_dataset_decide_the_weights(settings):
    """No limit is no entry: trainings from before there were limits continue."""
    specs = []
    for limits in ({}, {"data.identities": 2}, {"data.images_per_identity": 1}):
        chosen = change_settings(settings, limits, "test")
        specs.append(training_spec(chosen, training_faces(chosen), "ssl"))
        assert {name: specs[-1].get(name) for name in limits} == limits
    assert not any("data.identities" in name or "images_per_identity" in name for name in specs[0])
