import pytest

from facelib.config import InspectSettings, SettingsError, load_settings


def test_defaults_inspect_the_training_dataset():
    assert InspectSettings().sets == ["faces"]
    with pytest.raises(SettingsError, match=r"inspect\.near_bits"):
        load_settings(None, ["inspect.near_bits=129"])
