"""Checks of settings that several jobs share."""

import contextlib
import subprocess
import sys

import pytest
from support.commands import CEILING_S

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError, Folder
from facelib.data.fingerprint import claim_output_dir
from facelib.data.lock import FolderInUseError, directory_lock
from ray_jobs import evaluate, generate, pipeline, train_ssl, train_unpg
from ray_jobs.errors import JobError
from ray_jobs.validation import (
    check_align,
    check_checkpoint_exists,
    check_faces,
    check_options,
    check_output,
    check_sets,
    check_training,
    check_unique,
    checked_field,
    is_upcoming,
    open_dataset,
)


def settings(*overrides):
    return load_settings(None, list(overrides))


def test_what_can_be_used_passes(tmp_path):
    (tmp_path / "lfw.bin").write_bytes(b"")
    assert check_faces(settings(), 3) is None
    check_training(settings("model.name=iresnet18"))
    (lfw,) = check_sets("train.sets", [f"lfw={tmp_path}/lfw.bin"])
    assert (lfw.name, lfw.protocol) == ("lfw", "pairs")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.generator=styleganx", r"^generate\.generator, .*unknown generator 'styleganx'"),
        ("generate.first_identity=1099511627776", r"^generate\.first_identity, .*kept for held-out"),
        ("align.detector=yolo", r"^align\.detector, align\.options: unknown detector 'yolo'"),
        ("align.template=ffhq", r"^align\.template: unknown 'ffhq'"),
    ],
)
def test_faces_that_cannot_be_generated_are_refused(override, message):
    with pytest.raises(SettingsError, match=message):
        check_faces(settings(override), 1)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=resnet50", r"^model\.name, model\.options: .*resnet50"),
        ('model.options={"image_size": 128}', r"takes images of 128 pixels, but align\.size is 112"),
        ('augment.options={"sparkle": 1}', r"^augment\.options: .*sparkle"),
        ('train.selection_sets=["cfp"]', r"^train\.selection_sets: no set of train\.sets is named cfp"),
        ("augment.operations=[Flip]", r"^augment\.operations: operation 'Flip' does not exist; choose one of Identity"),
        ('train.sets=["lfw=nowhere.bin"]', r"^train\.sets: nowhere\.bin does not exist"),
        ("model.init_from=nowhere.pt", r"^model\.init_from: .*nowhere\.pt does not exist"),
    ],
)
def test_a_training_that_cannot_start_is_refused(override, message):
    with pytest.raises(SettingsError, match=message):
        check_training(settings(override))


@pytest.mark.parametrize(
    ("metric", "rule", "message"),
    [
        ("accuracy", "kfold", r"set q1 has no accuracy: choose one of auc, tar_at_far_<number>$"),
        ("rank_1", "kfold", r"set lfw has no rank_1: choose one of accuracy, auc, tar_at_far_<number>$"),
        ("accuracy", "best_threshold", None),
        ("tar_at_far_0.001", "kfold", None),
    ],
)
def test_a_metric_that_a_set_does_not_have_cannot_select(tmp_path, metric, rule, message):
    (tmp_path / "lfw.bin").write_bytes(b"")
    sets = f"train.sets=lfw={tmp_path}/lfw.bin,q1=kface-q1:{tmp_path}"
    flags = ("train.selection=sets", f"train.selection_metric={metric}", f"evaluate.accuracy_rule={rule}", sets)
    with pytest.raises(SettingsError, match=message) if message else contextlib.nullcontext():
        check_training(settings(*flags))


def test_two_validation_sets_of_one_name_are_refused(tmp_path):
    """The accuracy of the first one would be forgotten."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "lfw.bin").write_bytes(b"")
    sets = f'train.sets=["{tmp_path}/a/lfw.bin", "{tmp_path}/b/lfw.bin"]'
    with pytest.raises(SettingsError, match=r"train\.sets: duplicate name lfw; give the sets names, name=path"):
        check_training(settings(sets))


def test_workers_of_one_training_do_not_share_a_gpu():
    shared = ("train.use_gpu=true", "train.gpus_per_worker=0.5")
    check_training(settings(*shared))  # several trials of a sweep may
    with pytest.raises(SettingsError, match=r"^train\.gpus_per_worker: 0\.5 with train\.workers=2: NCCL"):
        check_training(settings(*shared, "train.workers=2"))


@pytest.mark.parametrize("name", ["iresnet18-narrow", "mobilefacenet"])
def test_a_batch_of_one_is_refused_where_batchnorm_needs_two(name):
    check_training(settings(f"model.name={name}", "train.batch_size=2"))
    with pytest.raises(SettingsError, match=r"^train\.batch_size: 1, but the last BatchNorm of .* needs two"):
        check_training(settings(f"model.name={name}", "train.batch_size=1"))


def test_a_checkpoint_may_be_upcoming_or_remote(tmp_path):
    chosen = settings(f"output={tmp_path}")
    check_checkpoint_exists(chosen, "model.init_from", "ssl/model.pt", {f"{tmp_path}/ssl/model.pt"})
    check_checkpoint_exists(chosen, "model.init_from", "s3://bucket/model.pt")
    check_checkpoint_exists(chosen, "model.init_from", "")


def test_small_checks_name_the_field():
    check_align(settings().align, detector=False)
    with pytest.raises(SettingsError, match=r"unpg\.options: dict has no setting 'spam'; there are"):
        check_options("unpg.options", {"spam": 1}, type("dict", (), {"__init__": lambda self, egg=1: None}))
    with pytest.raises(SettingsError, match=r"evaluate\.sets: duplicate name lfw; give names"):
        check_unique("evaluate.sets", ["lfw", "cfp", "lfw"], "give names")
    with pytest.raises(SettingsError, match=r"a\.b: too large"), checked_field("a.b"):
        raise ValueError("too large")


def test_an_output_folder_in_use_or_of_other_settings_is_refused_and_left_as_it_is(tmp_path):
    check_output(f"{tmp_path}/new", {"seed": 1})
    assert not (tmp_path / "new").exists()
    folder = Folder(f"{tmp_path}/old").create()
    claim_output_dir(folder, {"seed": 1})
    check_output(folder.uri, {"seed": 1})
    check_output(folder.uri)
    with pytest.raises(DatasetError, match="was made with other settings: seed: 1, now 2"):
        check_output(folder.uri, {"seed": 2})
    before = sorted(path.name for path in (tmp_path / "old").iterdir())
    with directory_lock(folder, "generate"), pytest.raises(FolderInUseError, match="in use by generate"):
        check_output(folder.uri)
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == before


def test_what_earlier_stages_write_need_not_exist(tmp_path):
    cfg = settings(f"output={tmp_path}")
    with pytest.raises(DatasetError, match=f"{tmp_path}/faces is no face dataset"):
        open_dataset(cfg, "faces")
    assert open_dataset(cfg, "faces", {f"{tmp_path}/faces"}) is None
    assert is_upcoming("/a/faces/lfw.bin", {"/a/faces"})
    assert not is_upcoming("/a/faces2", {"/a/faces"})
    check_sets("evaluate.sets", [f"lfw={tmp_path}/faces/lfw.bin"], {f"{tmp_path}/faces"})


@pytest.mark.parametrize(
    ("job", "missing"),
    [(train_ssl, "faces is no face dataset"), (train_unpg, "faces is no face dataset"),
     (evaluate, "evaluate.models: .*/ssl/model.pt does not exist")],
)  # fmt: skip
def test_each_job_looks_for_what_it_reads_before_ray_starts(tmp_path, job, missing):
    with pytest.raises(ValueError, match=missing):
        job.validate(settings(f"output={tmp_path}"))
    job.validate(settings(f"output={tmp_path}"), {f"{tmp_path}/{name}" for name in ("faces", "heldout", "ssl")})


def test_a_pipeline_names_the_stage_whose_folder_is_of_other_settings(tmp_path):
    first = settings(f"output={tmp_path}", "seed=1")
    claim_output_dir(Folder(first.path("faces")).create(), generate.dataset_spec(first, 0, first.generate.identities))
    stages = '[{"job": "train_ssl"}, {"job": "generate", "name": "faces"}]'
    with pytest.raises(JobError, match=r"^stage train_ssl: .*faces is unfinished"):
        pipeline.validate(settings(f"output={tmp_path}", f"stages={stages}"))
    stages = '[{"job": "generate", "name": "faces"}, {"job": "train_ssl"}]'
    pipeline.validate(settings(f"output={tmp_path}", "seed=1", f"stages={stages}"))
    with pytest.raises(JobError, match=r"^stage faces: .*/faces was made with other settings: seed: 1, now 0"):
        pipeline.validate(settings(f"output={tmp_path}", f"stages={stages}"))


def test_checks_of_faces_load_no_network_library(tmp_path):
    """A second of every refusal and of every job that trains nothing."""
    code = (
        "import sys\nfrom facelib.config import load_settings\nfrom ray_jobs.generate import validate\n"
        f"validate(load_settings(None, ['output={tmp_path}']))\n"
        "print('loaded:', *{'torch', 'ray', 'mlflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=CEILING_S)
    assert (done.stdout.splitlines()[-1], done.returncode) == ("loaded:", 0), done.stderr
