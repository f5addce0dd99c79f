import pytest
from support.sweeps import sweep_settings, sweep_trials

from facelib.config import load_settings
from facelib.tuning import report
from facelib.tuning.trial_settings import best_settings, trial_settings
from facelib.tuning.trials import Trial, TrialSegment


@pytest.fixture
def settings(tmp_path):
    return sweep_settings(tmp_path)


@pytest.fixture
def trials(settings):
    return sweep_trials(settings)


def test_a_trial_has_its_own_parameters_seed_and_folder(settings):
    trial = Trial(number=3, seed=7, segments=[TrialSegment(parameters={"ssl.margin": 0.2}, stop_epoch=5)])
    trained = trial_settings(settings, trial, 0, "/trials/0003")
    assert (trained.ssl.margin, trained.seed, trained.output) == (0.2, 7, "/trials/0003")
    assert trained.name == f"{settings.name}/trial 3"
    assert trained.data.dataset == settings.path("faces")  # the sweep's input


def test_a_final_training_has_the_parameters_of_its_source_and_tune_final(settings, trials):
    source = trials[2]
    final = Trial(number=90, kind="final", source_trial=2, seed=4, segments=source.segments)
    trained = trial_settings(settings, final, 0, "/trials/0090", source)
    assert (trained.train.epochs, trained.seed, trained.output) == (80, 4, "/trials/0090")
    assert trained.augment.magnitude == source.parameters["augment.magnitude"]


def test_best_yaml_is_a_config_file_with_the_winner_s_settings(settings, trials, tmp_path):
    winner, _ = report.winner_of(trials, settings.tune)
    best = best_settings(settings, winner, f"{tmp_path}/final")
    (tmp_path / "best.yaml").write_text(report.render_settings(best, "Trial 3.\nOf a sweep."))
    loaded = load_settings(tmp_path / "best.yaml")
    assert loaded == best
    assert loaded.augment.num_ops == winner.parameters["augment.num_ops"]
    assert loaded.augment.strength_start == 0.2
    assert loaded.train.epochs == 80
    assert loaded.output == f"{tmp_path}/final"
    assert loaded.data.dataset == f"{tmp_path}/out/faces"
    assert loaded.tune == load_settings().tune
