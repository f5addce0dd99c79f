import json

import pytest
from support.sweeps import sweep_settings, sweep_trials

from facelib.tuning import report
from facelib.tuning.trials import best_first


@pytest.fixture
def settings(tmp_path):
    return sweep_settings(tmp_path)


@pytest.fixture
def trials(settings):
    return sweep_trials(settings)


def test_the_report_names_the_winner_and_its_significance(settings, trials):
    winner, comparison = report.winner_of(trials, settings.tune)
    text = report.render_markdown(settings, trials, comparison, winner, None)
    assert f"Best: trial {winner.label} with augment.num_ops=" in text
    assert "over 3 new seeds" in text
    assert "| base | finished |" in text
    assert "failed: the training diverged" in text
    assert text.count("\n| ") == 1 + 25 + 1 + 3  # two tables: 25 trials, two finalists and the base
    assert any(c.significant for c in comparison.comparisons) == ("Significantly better than" in text)
    assert any(not c.significant for c in comparison.comparisons) == ("NOT significantly different" in text)
    assert json.loads(report.render_json(trials, comparison, winner, None))["winner"] == winner.number


def test_without_repeats_the_significance_is_unknown(settings, trials):
    search = {n: t for n, t in trials.items() if t.kind == "search"}
    winner, comparison = report.winner_of(search, settings.tune)
    assert comparison is None
    assert winner.number == best_first([*search.values()], "max")[0].number
    assert winner.state == "finished"
    assert "the significance of the differences is unknown" in report.summary(search, None, winner, settings.tune)
