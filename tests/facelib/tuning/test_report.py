import json

import cv2
import numpy as np
import pytest
import yaml

from facelib.config import load_settings
from facelib.data import DatasetError
from facelib.plots import tuning as plots
from facelib.tuning import report
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import importance
from facelib.tuning.trials import Report, Trial, TrialSegment, TrialStore, best_first, lineage

SPACE = {
    "augment.num_ops": {"integer": [0, 4]},
    "augment.magnitude": {"uniform": [0, 30]},
    "ssl.queue_policy": {"choice": ["fifo", "replace_most_similar"]},
}


@pytest.fixture
def settings(tmp_path):
    """A sweep of 24 trials with repeats of two finalists."""
    tune = {"space": SPACE, "trials": 24, "finalists": 2, "final": {"train.epochs": 80}}
    (tmp_path / "tune.yaml").write_text(yaml.safe_dump({"output": str(tmp_path / "out"), "tune": tune}))
    return load_settings(tmp_path / "tune.yaml", ["augment.strength_start=0.2"])


@pytest.fixture
def trials(settings):
    """The trials of that sweep by number: 0 as the settings are, the odd ones stopped, the last one failed."""
    space, rng = SearchSpace(SPACE, settings), np.random.default_rng(0)
    found = {}
    for number in range(25):
        parameters = space.sample(rng) if number else {}
        ops, magnitude = parameters.get("augment.num_ops", 4), parameters.get("augment.magnitude", 16)
        score = 0.9 - 0.01 * abs(ops - 2) - 0.001 * abs(magnitude - 12) + 0.002 * rng.normal()
        epochs = 2 if number % 2 else 5
        reports = [Report(epoch=e, value=score - 0.05 / e, seconds=20 * number + 3 * e) for e in range(1, epochs + 1)]
        state = "failed" if number == 24 else "stopped" if number % 2 else "finished"
        found[number] = Trial(
            number=number, seed=0, segments=[TrialSegment(parameters=parameters, stop_epoch=5, done=True)], state=state,
            reason="the training diverged" if number == 24 else "", reports=reports, score=reports[-1].value,
            epoch=epochs, seconds=12,
        )  # fmt: skip
    for finalist in report.finalists([*found.values()], settings.tune):
        for seed in (1, 2, 3):
            number = len(found)
            value = float(finalist.score) - 0.004 + 0.003 * rng.normal()
            found[number] = Trial(
                number=number, kind="repeat", of=finalist.number, seed=seed, segments=finalist.segments,
                state="finished",
                reports=[Report(epoch=5, value=value, seconds=600)], score=value, epoch=5,
            )  # fmt: skip
    return found


def test_the_report_names_the_winner_and_how_sure_it_is(settings, trials):
    winner, verdict = report.winner_of(trials, settings.tune)
    text = report.as_text(settings, trials, verdict, winner, None)
    assert f"Best: trial {winner.label} with augment.num_ops=" in text
    assert "over 3 new seeds" in text
    assert "| base | finished |" in text
    assert "failed: the training diverged" in text
    assert text.count("\n| ") == 1 + 25 + 1 + 3  # two tables: 25 trials, two finalists and the base
    assert any(c.significant for c in verdict.comparisons) == ("Better than" in text)
    assert any(not c.significant for c in verdict.comparisons) == ("NOT significant" in text)
    assert json.loads(report.as_json(trials, verdict, winner, None))["winner"] == winner.number


def test_without_repeats_the_report_claims_nothing(settings, trials):
    search = {n: t for n, t in trials.items() if t.kind == "search"}
    winner, verdict = report.winner_of(search, settings.tune)
    assert verdict is None
    assert winner.number == best_first([*search.values()], "max")[0].number
    assert winner.state == "finished"
    assert "how much of the differences is chance is not known" in report.summary(search, None, winner, settings.tune)


def test_best_yaml_is_a_config_file_with_the_winner_s_settings(settings, trials, tmp_path):
    winner, _ = report.winner_of(trials, settings.tune)
    best = report.best_settings(settings, winner, f"{tmp_path}/final")
    (tmp_path / "best.yaml").write_text(report.as_yaml(best, "Trial 3.\nOf a sweep."))
    loaded = load_settings(tmp_path / "best.yaml")
    assert loaded == best
    assert loaded.augment.num_ops == winner.parameters["augment.num_ops"]
    assert loaded.augment.strength_start == 0.2
    assert loaded.train.epochs == 80
    assert loaded.output == f"{tmp_path}/final"
    assert loaded.data.dataset == f"{tmp_path}/out/faces"
    assert loaded.tune == load_settings().tune


def test_every_picture_is_drawn(settings, trials, tmp_path):
    space = SearchSpace(SPACE, settings)
    search = [t for t in trials.values() if t.kind == "search"]
    scored = [t for t in search if t.parameters]
    found = importance(space, [t.parameters for t in scored], [t.score for t in scored])
    verdict = report.winner_of(trials, settings.tune)[1]
    labels = {t.number: t.label for t in search}
    written = [
        plots.plot_history(search, tmp_path / "history.png", "heldout/auc", "max"),
        plots.plot_parallel(space, search, tmp_path / "parallel.png", "heldout/auc", found),
        plots.plot_importance(found, tmp_path / "importance.png", "heldout/auc", len(scored)),
        plots.plot_heatmap(
            space, search, plots.heatmap_fields(space, [], found), tmp_path / "heatmap.png", "heldout/auc"
        ),
        plots.plot_finalists(
            verdict, report.repeat_scores([*trials.values()]), tmp_path / "finalists.png", "heldout/auc", labels
        ),
        plots.plot_schedules(search[:6], ["augment.magnitude"], tmp_path / "schedules.png"),
    ]
    assert plots.heatmap_fields(space, [], found) == plots.STRENGTH
    for path in written:
        picture = cv2.imread(str(path))
        assert min(picture.shape[:2]) > 200
        assert picture.std() > 10


def test_a_schedule_is_followed_back_through_other_trials():
    def segment(strength, stop, warm_start_from):
        return TrialSegment(parameters={"augment.strength": strength}, stop_epoch=stop, warm_start_from=warm_start_from)

    trials = {
        0: Trial(number=0, seed=0, segments=[segment(0.1, 2, None), segment(0.1, 4, (0, 0)), segment(0.5, 6, (1, 1))]),
        1: Trial(number=1, seed=0, segments=[segment(0.3, 2, None), segment(0.4, 4, (1, 0))]),
    }
    segments = lineage(trials, 0)
    assert [p.parameters["augment.strength"] for p in segments] == [0.3, 0.4, 0.5]
    own = report.own_segments(segments, 7)
    assert [p.warm_start_from for p in own] == [None, (7, 0), (7, 1)]
    assert [p.stop_epoch for p in own] == [2, 4, 6]


def test_trials_are_kept_on_disk(tmp_path):
    store = TrialStore(f"{tmp_path}/trials")
    trial = Trial(number=3, seed=1, segments=[TrialSegment(parameters={"ssl.margin": 0.1}, stop_epoch=2)])
    store.save(trial)
    trial.state = "finished"
    store.save(trial)
    assert TrialStore(f"{tmp_path}/trials").trials == {3: trial}
    (tmp_path / "trials" / "0004.json").write_text('{"number": 4, ')
    with pytest.raises(DatasetError, match=r"0004\.json: is no trial of a sweep"):
        TrialStore(f"{tmp_path}/trials")
