import pytest
from support.datasets import write_dataset

from facelib.config import load_settings
from ray_jobs.training.online_faces import training_faces
from ray_jobs.tuning.spec import sweep_folder, sweep_spec


@pytest.fixture
def spec(tmp_path):
    """Function: the spec of a sweep with other settings."""
    write_dataset(tmp_path / "faces", identities=4, images=1, per_part=4)
    write_dataset(tmp_path / "heldout", identities=4, images=2, first=100)

    def build(*overrides):
        paths = (f"data.dataset={tmp_path}/faces", f"data.heldout={tmp_path}/heldout")
        settings = load_settings(None, [*paths, *overrides])
        return sweep_spec(settings, training_faces(settings))

    return build


def test_more_may_be_asked_of_a_sweep_but_nothing_else(spec):
    assert spec("tune.trials=9", "tune.finalists=5", "tune.time_budget=60") == spec()
    for other in ("tune.scheduler=median", "tune.sampler=gp", "tune.mode=min", "train.epochs=3"):
        assert spec(other) != spec()


@pytest.mark.parametrize("fixed", ["tune.search=grid", "tune.scheduler=pbt"])
def test_the_number_of_trials_of_a_grid_or_population_is_fixed(spec, fixed):
    assert spec(fixed, "tune.trials=9") != spec(fixed)


def test_the_folder_is_made(tmp_path):
    folder = sweep_folder(load_settings(None, [f"output={tmp_path}", "tune.folder=a/sweep"]))
    assert (tmp_path / "a" / "sweep").is_dir()
    assert folder.uri == f"{tmp_path}/a/sweep"
