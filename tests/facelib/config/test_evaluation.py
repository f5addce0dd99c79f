import pytest

from facelib.config import EmbedSettings, EvaluateSettings, ExportSettings, SettingsError, load_settings


def test_defaults_use_the_label_free_model():
    assert EvaluateSettings().models == [EmbedSettings().model] == [ExportSettings().model] == ["ssl/model.pt"]


@pytest.mark.parametrize("override", ["evaluate.far_rule=loose", "embed.precision=float16", "export.tolerance=2"])
def test_choices_and_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])


@pytest.mark.parametrize(("given", "rule"), [("true", "sum"), ("false", "none"), ("concat", "concat")])
def test_flip_rules_by_name_or_as_true_and_false(given, rule):
    assert load_settings(None, [f"evaluate.flip={given}"]).evaluate.flip == rule
    assert load_settings(None, [f"embed.flip={given}"]).embed.flip == rule


def test_flip_of_a_settings_file(tmp_path):
    (tmp_path / "x.yaml").write_text("evaluate: {flip: no}\nembed: {flip: none}\n")
    settings = load_settings(tmp_path / "x.yaml")
    assert (settings.evaluate.flip, settings.embed.flip) == ("none", "none")
