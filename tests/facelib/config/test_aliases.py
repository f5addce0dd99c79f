import logging

import pytest

from facelib.config import SettingsError, change_settings, load_settings
from facelib.config.aliases import ALIASES
from facelib.config.flags import setting_types


def test_an_old_name_in_a_file_is_accepted_with_a_warning(tmp_path, caplog):
    path = tmp_path / "recipe.yaml"
    path.write_text("embed: {normalise: false}\naugment: {options: {colour_jitter: 0.1}}\n")
    with caplog.at_level(logging.WARNING):
        settings = load_settings(path)
    assert settings.embed.normalize is False
    assert settings.augment.options == {"color_jitter": 0.1}
    assert f"{path}: embed.normalise is now embed.normalize" in caplog.text
    assert "augment.options.colour_jitter is now augment.options.color_jitter" in caplog.text


def test_an_old_name_as_a_flag_is_accepted_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert load_settings(None, ["--embed.normalise", "false"]).embed.normalize is False
        flags = ["--augment.options", '{"colour_jitter": 0.2}']
        assert load_settings(None, flags).augment.options == {"color_jitter": 0.2}
    assert "embed.normalise is now embed.normalize" in caplog.text


def test_old_names_in_sweeps_and_stages(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "tune:\n"
        "  space:\n"
        "    augment.options.colour_jitter: {uniform: [0, 1]}\n"
        "    ssl.margin: [{uniform: [0, 1], when: {augment.options.colour_jitter: [0.5]}}]\n"
        "  final: {embed.normalise: false}\n"
        "  heatmap: [augment.options.colour_jitter, ssl.margin]\n"
        "stages: [{job: embed, set: {embed.normalise: false}}]\n"
    )
    settings = load_settings(path)
    assert settings.tune.space == {
        "augment.options.color_jitter": {"uniform": [0, 1]},
        "ssl.margin": [{"uniform": [0, 1], "when": {"augment.options.color_jitter": [0.5]}}],
    }
    assert settings.tune.final == {"embed.normalize": False}
    assert settings.tune.heatmap == ["augment.options.color_jitter", "ssl.margin"]
    assert settings.stages[0].set == {"embed.normalize": False}
    assert change_settings(settings, {"embed.normalise": False}, "test").embed.normalize is False


def test_both_names_at_once_are_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("embed: {normalise: false, normalize: true}\n")
    with pytest.raises(SettingsError, match=r"embed\.normalise is the old name of embed\.normalize"):
        load_settings(path)


def test_aliases_lead_to_settings_of_the_same_section():
    for old, new in ALIASES.items():
        assert ".".join(new.split(".")[:2]) in setting_types()
        assert old.rpartition(".")[0] == new.rpartition(".")[0]
