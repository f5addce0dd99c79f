import importlib
import os
from pathlib import Path

import pytest

from facelib.config import SettingsError, load_settings, shipped_configs
from facelib.config.reading import read_recipe
from ray_jobs.datasets.generator_choice import choose_generator
from ray_jobs.generate import dataset_spec
from ray_jobs.pipeline import stage_settings, written_by

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
BASES = [path for path in CONFIGS if path.stem.startswith("base_")]
RECIPES = [path for path in CONFIGS if path not in BASES]
# They import datasets that are not generated, or generate with weights that a user brings.
NEED_DATA = {"unpg_kface": "/data/", "unpg_ms1mv2": "/data/", "usynthface": "/weights"}


def validate_stages(path):
    """Run the validation of every stage, as the pipeline does before the first one starts."""
    settings = choose_generator(load_settings(path))
    written = set()
    if settings.name == "unpg_cpu":
        written.add(settings.path("ssl"))  # by ssl_cpu.yaml
    for stage in settings.stages:
        changed = stage_settings(settings, stage)
        importlib.import_module(f"ray_jobs.{stage.job}").validate(changed, written)
        written.update(changed.path(name) for name in written_by(stage.job, changed))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_passes_the_validation_of_its_stages(path, tmp_path, monkeypatch):
    monkeypatch.setenv("FACELIB_HOME", str(tmp_path))  # not the checkout, where a job may be running
    assert load_settings(path).stages
    if path.stem in NEED_DATA:
        with pytest.raises(SettingsError, match=NEED_DATA[path.stem]):
            validate_stages(path)
    else:
        validate_stages(path)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_named_after_its_file_and_short_and_says_how_to_run_it(path):
    lines = path.read_text().splitlines()
    comment = "\n".join(line for line in lines if line.startswith("#"))
    assert load_settings(path).name == path.stem
    assert len(lines) <= 60
    assert f"configs/{path.name}" in comment or "facelib quickstart" in comment


@pytest.mark.parametrize("path", BASES, ids=lambda path: path.stem)
def test_bases_are_valid_and_extended(path):
    load_settings(path)
    assert any(f"extends: {path.name}\n" in other.read_text() for other in CONFIGS)


def test_recipes_that_write_to_one_folder_share_their_faces():
    by_output = {}
    for path in RECIPES:
        settings = choose_generator(load_settings(path))
        if any(stage.job == "generate" for stage in settings.stages):
            by_output.setdefault(settings.output, {})[path.stem] = settings
    sharing = {output: recipes for output, recipes in by_output.items() if len(recipes) > 1}
    assert set(sharing["runs/tune"]) == {"tune_ssl", "tune_ssl_joint", "tune_ssl_pbt", "tune_unpg", "tune_unpg_joint"}
    assert set(sharing["runs/ssl_cpu"]) == {"ssl_cpu", "unpg_cpu"}
    for recipes in sharing.values():
        specs = [(dataset_spec(s, 0, s.generate.identities), s.generate.heldout_identities) for s in recipes.values()]
        assert all(spec == specs[0] for spec in specs), list(recipes)


def test_recipes_that_reuse_faces_name_a_recipe_with_the_same_folder():
    for path in RECIPES:
        for other in RECIPES:
            text = " ".join(path.read_text().replace("#", "").split())
            if f"euses the faces of {other.name}" in text or f"{other.name}, whose faces it reuses" in text:
                assert load_settings(path).output == load_settings(other).output, f"{path.name}, {other.name}"


def test_the_smoke_recipe_is_the_quick_start_at_a_tiny_size():
    smoke, quick = load_settings("smoke"), load_settings("quickstart")
    assert [stage.job for stage in smoke.stages] == [stage.job for stage in quick.stages]
    assert smoke.generate.identities * smoke.generate.images_per_identity <= 200
    assert smoke.output != quick.output


def test_shipped_names_are_the_recipes():
    assert shipped_configs() == [path.stem for path in RECIPES]
    assert read_recipe("quickstart").tree["name"] == "quickstart"
    assert os.path.samefile(read_recipe("quickstart").origin, CONFIGS[0].parent / "quickstart.yaml")
