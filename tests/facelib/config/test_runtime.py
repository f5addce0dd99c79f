import pytest

from facelib.config import RaySettings, SettingsError, StageSettings, TrackingSettings, load_settings


def test_defaults_are_a_local_cluster_and_local_tracking():
    assert RaySettings().address == ""
    assert TrackingSettings().uri == ""


def test_a_stage_names_a_job():
    assert StageSettings(job="generate").set == {}
    with pytest.raises(SettingsError, match=r"stages\.0\.job"):
        load_settings(None, ["--stages", '[{"job": "paint"}]'])
