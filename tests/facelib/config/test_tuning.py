import pytest

from facelib.config import SettingsError, TuneSettings, load_settings


def test_defaults_are_tpe_with_early_stopping():
    assert (TuneSettings().search, TuneSettings().scheduler) == ("optuna", "asha")


@pytest.mark.parametrize("override", ["tune.quantile=0.6", "tune.reduction=1", "tune.mode=best"])
def test_choices_and_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
