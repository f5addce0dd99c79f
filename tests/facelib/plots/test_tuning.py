import cv2
import pytest
from support.sweeps import SPACE, sweep_settings, sweep_trials

from facelib.plots import tuning as plots
from facelib.tuning import report
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import importance


@pytest.fixture
def settings(tmp_path):
    return sweep_settings(tmp_path)


@pytest.fixture
def trials(settings):
    return sweep_trials(settings)


@pytest.mark.slow
def test_every_plot_is_drawn(settings, trials, tmp_path):
    space = SearchSpace(SPACE, settings)
    search = [t for t in trials.values() if t.kind == "search"]
    scored = [t for t in search if t.parameters]
    found = importance(space, [t.parameters for t in scored], [t.score for t in scored])
    comparison = report.winner_of(trials, settings.tune)[1]
    labels = {t.number: t.label for t in search}
    written = [
        plots.plot_history(search, tmp_path / "history.png", "heldout/auc", "max"),
        plots.plot_parallel(space, search, tmp_path / "parallel.png", "heldout/auc", found),
        plots.plot_importance(found, tmp_path / "importance.png", "heldout/auc"),
        plots.plot_heatmap(
            space, search, plots.heatmap_fields(space, [], found), tmp_path / "heatmap.png", "heldout/auc"
        ),
        plots.plot_finalists(
            comparison, report.repeat_scores([*trials.values()]), tmp_path / "finalists.png", "heldout/auc", labels
        ),
        plots.plot_schedules(search[:6], ["augment.magnitude"], tmp_path / "schedules.png"),
    ]
    assert plots.heatmap_fields(space, [], found) == plots.STRENGTH
    for path in written:
        image = cv2.imread(str(path))
        assert min(image.shape[:2]) > 200
        assert image.std() > 10
