"""How Tune is set up; trials on a real cluster are in tests/ray_jobs/test_tune.py."""

import logging
import os
from types import SimpleNamespace

import pytest

from facelib.config import load_settings
from ray_jobs.tuning import driver


def test_nothing_to_train_starts_nothing(ray_cluster, monkeypatch):
    monkeypatch.setattr(driver.ray.tune, "Tuner", lambda *_, **__: pytest.fail("started"))
    settings = load_settings(None, ["train.cpus_per_worker=0.1", "data.cpus_per_reader=0.1"])
    driver.run_trials(SimpleNamespace(settings=settings, next_segment=lambda kind: None), "search")


def test_names_in_tunes_experiment_folder():
    sweep = SimpleNamespace(started_at="2030-01-02_03-04-05")
    assert driver.experiment_name(sweep, "search") == "2030-01-02_03-04-05"
    assert driver.experiment_name(sweep, "repeat") == "2030-01-02_03-04-05_repeat"
    names = [driver.trial_dirname(SimpleNamespace(config={"number": 7, "segment": s})) for s in (0, 2)]
    assert names == ["0007", "0007_segment-2"]


def test_tune_is_quiet_inside_the_block_and_as_before_after_it(monkeypatch):
    monkeypatch.setenv("TUNE_WARN_THRESHOLD_S", "7")
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    level = logging.getLogger("ray.tune").level
    with driver._quiet_tune():
        assert os.environ["TUNE_DISABLE_SIGINT_HANDLER"] == "1"
        assert logging.getLogger("ray.tune").level == logging.CRITICAL
    assert os.environ["TUNE_WARN_THRESHOLD_S"] == "7"
    assert "TUNE_DISABLE_SIGINT_HANDLER" not in os.environ
    assert logging.getLogger("ray.tune").level == level
