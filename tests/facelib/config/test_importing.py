import pytest

from facelib.config import ImportSettings, SettingsError, load_settings


def test_defaults_keep_all_images():
    cfg = ImportSettings()
    assert (cfg.duplicates, cfg.min_images, cfg.min_pixels, cfg.min_sharpness) == ("keep", 1, 0, 0)


@pytest.mark.parametrize("override", ["import_data.alignment=guess", "import_data.duplicate_bits=257"])
def test_choices_and_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
