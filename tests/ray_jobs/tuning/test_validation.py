import pytest

from facelib.config import SettingsError, load_settings
from facelib.tuning.space import SearchSpace
from ray_jobs.tuning.validation import check_components


def check(*overrides):
    settings = load_settings(None, [*overrides, 'tune.space={"augment.strength": {"uniform": [0, 1]}}'])
    check_components(SearchSpace(settings.tune.space, settings), settings)


def test_classes_that_can_be_used():
    check()
    check("tune.scheduler={class: own_tuning:StopWorst}", "tune.search={class: own_tuning:HillClimb}")
    check("tune.callbacks=own_tuning:CountResults", "tune.export_optuna=study.db")
    check("output=s3://bucket/run")  # which asks for no export


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tune.scheduler={class: own_tuning:HillClimb}", r"tune\.scheduler: .* is not a subclass"),
        ("tune.scheduler={class: ray.tune.schedulers:HyperBandScheduler}", r"HyperBandScheduler pauses trials"),
        ("tune.search={class: own_tuning:Forgetful}", r"tune\.search: Forgetful has no methods save and restore"),
        ("tune.callbacks=own_tuning:Absent", r"tune\.callbacks: own_tuning:Absent: cannot be imported"),
        ("tune.export_optuna=s3://bucket/study.db", r"tune\.export_optuna: .* needs a file on this machine"),
    ],
)
def test_others_are_refused_before_the_first_trial(override, message):
    with pytest.raises(SettingsError, match=message):
        check(override)
