"""Settings of exporting images."""

import pytest

from facelib.config import ExportImagesSettings, SettingsError, load_settings


def test_one_input_or_several():
    assert ExportImagesSettings().inputs == ["faces"]
    assert load_settings(None, ["--export_images.input", "[a.rec, b.rec]"]).export_images.inputs == ["a.rec", "b.rec"]


def test_an_unknown_layout_is_refused():
    with pytest.raises(SettingsError, match=r"export_images\.layout"):
        load_settings(None, ["export_images.layout=casia"])
