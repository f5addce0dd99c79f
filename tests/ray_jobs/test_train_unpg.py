"""Checks of supervised training; what it learns is tested in training/test_driver.py."""

import importlib.util

import pytest

from facelib.config import SettingsError, load_settings
from ray_jobs.train_unpg import check_settings


def test_the_defaults_can_be_trained():
    check_settings(load_settings(None, []))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['unpg.options={"spam": 1}'], r"unpg\.options: ArcFace has no setting 'spam'; there are"),
        (["unpg.head=magface", 'unpg.options={"margin": 1}'], r"unpg\.options: MagFace has no setting 'margin'"),
        (["unpg.margin=3.2"], r"unpg\.margin, .*margin=3\.2 must lie in 0\.\.π"),
        (["unpg.head=cosface", "unpg.margin=2.1"], r"unpg\.margin, .*margin=2\.1 must lie in 0\.\.2"),
        (["unpg.head=magface", 'unpg.options={"l_margin": -1}'], r"unpg\.options: l_margin=-1 must lie in"),
        (['unpg.options={"num_classes": 3}'], r"unpg\.options: .*multiple values"),
        (["model.init_from=nowhere.pt"], r"model\.init_from: .*nowhere\.pt does not exist"),
    ],
)
def test_what_cannot_be_trained_is_refused(overrides, message):
    with pytest.raises(SettingsError, match=message):
        check_settings(load_settings(None, overrides))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"unpg\.triplet, .*pip install 'facelib\[metric-learning\]'"):
        check_settings(load_settings(None, ["unpg.triplet=0.1"]))
