import pytest

from facelib.config import SettingsError, TuneSettings, load_settings


def test_defaults_are_tpe_with_early_stopping():
    assert (TuneSettings().search, TuneSettings().scheduler) == ("optuna", "asha")


def test_a_class_in_place_of_a_word():
    expected = {"class": "mine:Scheduler", "options": {"patience": 3}}
    flags = ["--tune.scheduler", "{class: mine:Scheduler, options: {patience: 3}}"]
    assert load_settings(None, flags).tune.scheduler == expected
    settings = load_settings(None, ['tune.scheduler={"class": "a.b:C"}', "tune.stop=heldout/auc=0.9"])
    assert settings.tune.scheduler == {"class": "a.b:C", "options": {}}
    assert settings.tune.stop == {"heldout/auc": 0.9}
    assert type(settings).model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("hyperband", "must be asha, median, pbt, none or {class: package.module:Class"),
        ("{class: mine.Scheduler}", "is not of the form package.module:Class"),
        ("{class: a:B, option: {}}", "must be of the form"),
        ("{options: {}}", "must be asha, median"),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(SettingsError, match=r"tune\.scheduler: .*") as caught:
        load_settings(None, ["--tune.scheduler", value])
    assert message in str(caught.value)


@pytest.mark.parametrize("override", ["tune.quantile=0.6", "tune.reduction=1", "tune.mode=best"])
def test_choices_and_ranges_are_checked(override):
    with pytest.raises(SettingsError, match=override.partition("=")[0]):
        load_settings(None, [override])
