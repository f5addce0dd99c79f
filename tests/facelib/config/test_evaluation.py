import pytest

from facelib.config import EmbedSettings, EvaluateSettings, ExportSettings, SettingsError, load_settings


def test_defaults_use_the_label_free_model():
    assert EvaluateSettings().models == [EmbedSettings().model] == [ExportSettings().model] == ["ssl/model.pt"]


@pytest.mark.parametrize("override", ["evaluate.far_rule=loose", "embed.precision=float16", "export.tolerance=2"])
def test_choices_and_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
