import pytest

from facelib.config import AlignSettings, GenerateSettings, SettingsError, load_settings


def test_defaults_are_the_standard_crop():
    assert (AlignSettings().template, AlignSettings().size) == ("arcface", 112)
    assert GenerateSettings().generator == "morphable"


@pytest.mark.parametrize("override", ["generate.identities=0", "generate.jpeg_quality=101", "align.size=16"])
def test_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])


def test_a_mixture_is_named_by_its_generators():
    text = '[{"name": "morphable", "share": 3}, {"name": "folder", "share": 1, "options": {"folder": "x"}}]'
    cfg = load_settings(None, ["--generate.generator", text]).generate
    assert [(part.name, part.share, part.options) for part in cfg.generator] == [
        ("morphable", 3, {}),
        ("folder", 1, {"folder": "x"}),
    ]
    assert cfg.generator_name == "morphable+folder"
    assert GenerateSettings().generator_name == "morphable"


@pytest.mark.parametrize(
    "text", ['[{"name": "a"}]', '[{"name": "a", "share": 0}]', '[{"name": "a", "share": 1, "x": 2}]']
)
def test_a_part_of_a_mixture_needs_a_name_and_a_share(text):
    with pytest.raises(SettingsError, match=r"generate\.generator"):
        load_settings(None, ["--generate.generator", text])
