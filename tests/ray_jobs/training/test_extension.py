"""Which trainings may go on to more epochs, and what stays of the shorter one."""

import pytest

from facelib.config import load_settings
from facelib.data import DatasetError, Folder
from facelib.data.fingerprint import claim_output_dir, read_spec
from ray_jobs.errors import JobError
from ray_jobs.training.extension import claim_training_dir


def settings(*overrides):
    return load_settings(None, ["augment.strength_start=null", *overrides])


@pytest.fixture
def trained(tmp_path):
    """A finished training of 2 epochs."""
    folder = Folder(str(tmp_path))
    claim_output_dir(folder, {"train.epochs": 2, "seed": 0})
    folder.write("model.pt", b"two epochs")
    return folder


@pytest.mark.parametrize("schedule", ["constant", "step", "plateau"])
def test_a_schedule_without_an_end_goes_on(trained, schedule):
    spec = {"train.epochs": 40, "seed": 0}
    claim_training_dir(settings(f"train.schedule={schedule}"), trained, spec, "model.pt")
    assert not trained.exists("model.pt")
    assert trained.read("model-2-epochs.pt") == b"two epochs"
    assert read_spec(trained) == spec
    claim_training_dir(settings(), trained, spec, "model.pt")  # killed and started again


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["train.schedule=cosine"], "train.schedule=cosine depends"),
        (["train.schedule=constant", "augment.strength_start=0.1"], "augment.strength_start depends"),
    ],
)
def test_what_depends_on_the_number_of_epochs_is_refused_unless_asked_for(trained, overrides, reason):
    spec = {"train.epochs": 40, "seed": 0}
    with pytest.raises(JobError, match=f"begun with train.epochs=2, now 40, and {reason}.*Set train.extend=true"):
        claim_training_dir(settings(*overrides), trained, spec, "model.pt")
    assert trained.read("model.pt") == b"two epochs"
    claim_training_dir(settings(*overrides, "train.extend=true"), trained, spec, "model.pt")
    assert not trained.exists("model.pt")


@pytest.mark.parametrize("spec", [{"train.epochs": 1, "seed": 0}, {"train.epochs": 40, "seed": 1}])
def test_other_differences_are_refused_as_ever(trained, spec):
    with pytest.raises(DatasetError, match="made with other settings"):
        claim_training_dir(settings("train.schedule=constant"), trained, spec, "model.pt")
    assert trained.read("model.pt") == b"two epochs"
