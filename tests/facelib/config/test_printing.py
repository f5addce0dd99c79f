import yaml

from facelib.config import Settings, load_settings, settings_to_yaml
from facelib.config.printing import changed_settings


def test_only_changes_are_printed_below_a_comment():
    text = settings_to_yaml(load_settings(None, ["train.epochs=3", "seed=1"]), "First.\nSecond.")
    assert text == "# First.\n# Second.\nseed: 1\ntrain:\n  epochs: 3\n"
    assert settings_to_yaml(Settings()) == ""


def test_all_settings_can_be_printed():
    assert yaml.safe_load(settings_to_yaml(Settings(), everything=True)) == Settings().model_dump(mode="json")


def test_changed_settings_are_found_by_section():
    assert changed_settings({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 0}, "d": 3}) == {"a": {"c": 2}}
