import pytest

from facelib.config import SettingsError, load_settings
from facelib.tuning.space import SearchSpace
from facelib.tuning.validation import check_fields, check_tune


def test_a_valid_sweep_passes():
    settings = load_settings()
    check_tune(settings)
    check_fields(SearchSpace({"ssl.queue_size": {"grid": [256, 512]}}, settings), settings)


@pytest.mark.parametrize(
    ("field", "tune", "message"),
    [
        ("generate.identities", {}, "search data.dataset"),
        ("seed", {}, "seeds are varied by the repeats"),
        ("unpg.wisk", {}, "no effect on tune.method=ssl"),
        ("ssl.margin", {"tune.method": "unpg"}, "no effect on tune.method=unpg"),
        ("train.epochs", {}, "compares trials at equal epochs"),
        ("train.workers", {}, "decides how trials run"),
        ("model.embedding_size", {"tune.scheduler": "pbt"}, "cannot change during a training"),
    ],
)
def test_fields_that_cannot_be_searched_are_rejected_with_the_reason(field, tune, message):
    settings = load_settings(None, [f"{k}={v}" for k, v in tune.items()])
    with pytest.raises(SettingsError, match=rf"tune\.space\.{field}: cannot be searched: .*{message}"):
        check_fields(SearchSpace({field: {"grid": [1, 2]}}, settings), settings)
    check_fields(SearchSpace({"augment.strength": {"grid": [0, 1]}}, settings), settings)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune.in_process=true", "train.workers=2"], "needs train.workers=1, not 2"),
        (["train.selection=last"], "measured only with train.selection=heldout"),
        (["train.evaluate_every=3"], "set it to 1"),
        (["tune.finalist_seeds=1"], "1 cannot tell a difference from chance"),
        (["tune.finalist_seeds=2"], "or at least 3"),
        (["tune.grace_epochs=99"], "more than train.epochs=40"),
        (["tune.scheduler=pbt", "tune.trials=1"], "at least 2 members"),
        (['tune.heatmap=["a", "b"]'], "a is not searched"),
    ],
)
def test_tune_settings_that_contradict_the_training(overrides, message):
    with pytest.raises(SettingsError, match=message):
        check_tune(load_settings(None, overrides))
    check_tune(load_settings())
