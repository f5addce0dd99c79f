from pathlib import Path

import pytest

from facelib.config import load_settings
from ray_jobs.pipeline import STAGES, stage_settings

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_is_valid(path):
    settings = load_settings(path)
    assert settings.stages
    for stage in settings.stages:
        assert stage.job in STAGES
        stage_settings(settings, stage)


def test_there_is_a_quickstart():
    assert "quickstart" in [path.stem for path in CONFIGS]
