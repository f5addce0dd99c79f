from pathlib import Path

import pytest
from ray.tune.schedulers import TrialScheduler

from facelib.config import SettingsError
from facelib.config.components import build_component, class_name, class_or, load_class

PLUGINS = Path(__file__).parents[2] / "support" / "plugins"


@pytest.fixture(autouse=True)
def plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))


def build(component, **more):
    return build_component("tune.scheduler", component, TrialScheduler, **more)


def test_a_class_is_built_with_its_options():
    scheduler = build({"class": "own_tuning:StopWorst", "options": {"chance": 0.5}})
    assert (type(scheduler).__name__, scheduler.chance) == ("StopWorst", 0.5)
    assert build("own_tuning:StopWorst").chance == 1.0
    assert build("own_tuning:StopWorst", chance=0.2).chance == 0.2
    assert load_class("x", {"class": "own_tuning:Pausing"}, TrialScheduler).__name__ == "Pausing"


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ("nowhere:Class", r"tune\.scheduler: nowhere:Class: cannot be imported .*PYTHONPATH"),
        ("own_tuning:Absent", r"own_tuning:Absent: cannot be imported"),
        ("own_tuning:HillClimb", r"is not a subclass of ray\.tune\.schedulers\.trial_scheduler\.TrialScheduler"),
        ("own_tuning:random", r"is not a subclass"),
        (
            {"class": "own_tuning:StopWorst", "options": {"odds": 1}},
            r"StopWorst cannot be built with options \{'odds': 1\}: .*odds",
        ),
    ],
)
def test_what_cannot_be_built_is_named(component, message):
    with pytest.raises(SettingsError, match=message):
        build(component)


def test_the_name_of_a_setting_that_is_a_word_or_a_class():
    assert class_name("asha") == "asha"
    assert class_name({"class": "a.b:C", "options": {}}) == "C"


def test_a_path_alone_where_there_are_no_words():
    check = class_or().func
    assert check("a.b:C") == "a.b:C"
    assert check({"class": "a.b:C"}) == {"class": "a.b:C", "options": {}}
    with pytest.raises(ValueError, match=r"must be package\.module:Class or"):
        check("a.b.C")
    assert class_or("tpe").func({"class": "tpe", "options": {"n_ei_candidates": 9}})["class"] == "tpe"
