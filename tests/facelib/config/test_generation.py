import pytest

from facelib.config import AlignSettings, GenerateSettings, SettingsError, load_settings


def test_defaults_are_the_standard_crop():
    assert (AlignSettings().template, AlignSettings().size) == ("arcface", 112)
    assert GenerateSettings().generator == "morphable"


@pytest.mark.parametrize("override", ["generate.identities=0", "generate.jpeg_quality=101", "align.size=16"])
def test_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
