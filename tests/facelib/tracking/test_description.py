"""Parameters, source and note of a run."""

import pytest

from facelib.config import load_settings
from facelib.config.help_text import JOB_SETTINGS
from facelib.tracking.description import parameters, run_note, source_tags


@pytest.mark.parametrize("job", [*JOB_SETTINGS, "trial"])
def test_a_job_is_compared_by_few_settings_that_it_reads(job):
    found = parameters(load_settings("quickstart"), job)
    assert (3 if job == "export_images" else 5) <= len(found) <= 40
    assert "seed" in found
    assert not any(name.startswith(("tracking.", "ray.")) or name.endswith("_per_actor") for name in found)


@pytest.mark.parametrize(("job", "own", "others"), [("train_ssl", "ssl.", "unpg."), ("train_unpg", "unpg.", "ssl.")])
def test_a_training_is_described_by_20_to_40_settings_of_its_method(job, own, others):
    found = parameters(load_settings("quickstart"), job)
    assert 20 <= len(found) <= 40
    assert {"train.epochs", "train.batch_size", "train.learning_rate", "model.name", "augment.num_ops"} <= set(found)
    assert any(name.startswith(own) for name in found)
    assert not any(name.startswith((others, "tune.", "evaluate.")) for name in found)


def test_a_trial_is_described_as_the_training_that_it_is():
    settings = load_settings("quickstart", ["tune.method=unpg", "unpg.wisk=null"])
    assert parameters(settings, "trial") == parameters(settings, "train_unpg")
    assert parameters(settings, "trial")["unpg.wisk"] == "None"


def test_the_source_is_the_jobs_file_at_its_commit():
    tags = source_tags("trial")
    assert tags["mlflow.source.name"] == "ray_jobs/tune.py"
    assert len(tags.get("mlflow.source.git.commit", "0" * 40)) == 40


def test_a_note_says_what_differs_from_the_defaults():
    note = run_note(load_settings(None, ["output=/data/out", "ssl.margin=0.3"]), "train_ssl", "What.\n\nDetails.")
    assert note.startswith("What.\n\nResults: `/data/out`")
    assert "ssl:\n  margin: 0.3" in note
