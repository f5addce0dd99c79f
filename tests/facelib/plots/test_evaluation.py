import subprocess
import sys

import cv2
import matplotlib
import numpy as np
import pytest

from facelib.evaluation.roc import roc_curve
from facelib.plots import (
    plot_det,
    plot_embedding_map,
    plot_roc,
    plot_score_histograms,
    plot_training_curves,
    plot_worst_pairs,
)
from facelib.plots.evaluation import MAX_CURVE_POINTS, _figure, _legend, _map_members, _thinned


def scores_and_labels(pairs=400, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.random(pairs) < 0.5
    return rng.normal(size=pairs) + 1.5 * labels, labels


def check_picture(path):
    image = cv2.imread(str(path))
    assert image is not None
    assert image.shape[0] > 200
    # Something is drawn, in color, and no temporary file is left.
    assert (image.std(axis=2) > 20).mean() > 1e-4
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_smallest_example(tmp_path):
    path = plot_roc({"model": scores_and_labels()}, tmp_path / "roc.png")
    check_picture(path)


def test_det_of_several_models(tmp_path):
    models = {"a": scores_and_labels(), "b": scores_and_labels(50, 1), "perfect": ([3.0, 2.0, 1.0], [1, 1, 0])}
    check_picture(plot_det(models, tmp_path / "det.png"))


def test_histograms(tmp_path):
    check_picture(plot_score_histograms(*scores_and_labels(), tmp_path / "new" / "scores.png", threshold=0.4))


def test_histogram_of_constant_scores(tmp_path):
    check_picture(plot_score_histograms([1, 1, 1], [0, 1, 0], tmp_path / "scores.png"))


def test_training_curves(tmp_path):
    history = [{"epoch": 1, "train/loss": 3.0, "note": "warm-up"}, {"epoch": 2, "train/loss": 2.0, "lfw/accuracy": 0.6}]
    check_picture(plot_training_curves(history, tmp_path / "curves.png"))


def test_worst_pairs(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (10, 2, 32, 32, 3), dtype=np.uint8)
    scores, labels = np.linspace(-1, 1, 10), np.arange(10) % 2
    path = plot_worst_pairs(images[:, 0], images[:, 1], scores, labels, tmp_path / "worst.png", count=8)
    check_picture(path)


def test_worst_pairs_are_counted_by_kind_and_may_differ_in_size(tmp_path):
    images = [np.full((size, 24, 3), size, np.uint8) for size in range(20, 30)]
    scores, labels = np.linspace(-1, 1, 10), np.arange(10) < 3
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        text = plot_worst_pairs(images, images[::-1], scores, labels, tmp_path / "worst.svg", count=2).read_text()
    assert "genuine pairs, lowest similarity (2 of 3 pairs)" in text
    assert "impostor pairs, highest similarity (2 of 7 pairs)" in text
    assert [f"#{pair}  " in text for pair in range(10)] == [pair in (0, 1, 8, 9) for pair in range(10)]


def test_map_of_embeddings(tmp_path):
    """Three people far apart; who is unknown, or shown once, is left out."""
    rng = np.random.default_rng(0)
    people = np.array([0] * 8 + [5] * 8 + [9] * 3 + [-1] * 4 + [7])
    embeddings = rng.normal(size=(10, 12))[people] + 0.1 * rng.normal(size=(24, 12))
    check_picture(plot_embedding_map(embeddings, people, tmp_path / "map.png", faces=5))
    rows, numbers, left_out = _map_members(people, 24, max_identities=2, faces=5)
    assert (rows.tolist(), numbers.tolist(), left_out) == ([*range(5), *range(8, 13)], [0] * 5 + [1] * 5, 1)
    with pytest.raises(ValueError, match="two identities with two faces each"):
        plot_embedding_map(embeddings, np.arange(24), tmp_path / "none.png")
    with pytest.raises(ValueError, match=r"identities has shape \[3\] for 24 embeddings"):
        plot_embedding_map(embeddings, [1, 1, 2], tmp_path / "none.png")


def test_a_long_curve_is_thinned_and_stays_on_the_curve():
    curve = roc_curve(*scores_and_labels(60_000))
    far, tar = _thinned(curve)
    assert len(far) <= MAX_CURVE_POINTS + 2
    points = set(zip(curve.far.tolist(), curve.tar.tolist(), strict=True))
    assert points.issuperset(zip(far.tolist(), tar.tolist(), strict=True))
    # Dense enough to be drawn: no gap is wider than 1 % of an axis.
    assert np.diff(far).max() < 0.01
    assert np.diff(tar).max() < 0.01


def test_pdf_by_ending(tmp_path):
    assert plot_roc({"m": scores_and_labels()}, tmp_path / "roc.pdf", bootstrap=0).read_bytes().startswith(b"%PDF")


def test_pyplot_is_never_imported(tmp_path):
    code = (
        "import sys; from facelib.plots import plot_roc; assert 'matplotlib' not in sys.modules;"
        f"plot_roc({{'m': ([1, 2, 3], [0, 1, 1])}}, {str(tmp_path / 'roc.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_refuses(tmp_path):
    with pytest.raises(ValueError, match="models is empty"):
        plot_roc({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="history is empty"):
        plot_training_curves([], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r'history\[1\] has no "epoch"'):
        plot_training_curves([{"epoch": 1, "loss": 1.0}, {"loss": 2.0}], tmp_path / "x.png")
    with pytest.raises(ValueError, match="must match"):
        plot_worst_pairs([], [], [1.0], [1], tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("models", "below"), [(3, False), (8, True)])
def test_a_legend_of_many_lines_covers_no_curve(models, below):
    figure, axes = _figure()
    for number in range(models):
        axes.plot([0, 1], [0, 1], label=f"model {number}")
    _legend(axes)
    assert (axes.get_legend() is None) == below
    assert len(figure.legends) == below
