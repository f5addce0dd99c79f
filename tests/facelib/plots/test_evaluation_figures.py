"""Figures of sets with pairs."""

import numpy as np
import pytest
from support.datasets import write_dataset

from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set
from facelib.plots.evaluation_figures import PairSide, draw_embedding_map, draw_evaluation_figures


@pytest.fixture
def faces(tmp_path):
    """A set of pairs of a face dataset."""
    dataset = write_dataset(tmp_path / "faces", identities=12, images=3)
    return open_set(f"mine={dataset.folder.uri}", {"pairs": 20})


@pytest.mark.slow
def test_curves_of_all_models_and_histograms_of_the_trained(faces, tmp_path):
    embeddings = np.random.default_rng(0).normal(size=(len(faces.faces), 8)).astype(np.float32)
    result = faces.measure(embeddings, EvaluationOptions(fars=(0.1,), bootstrap=0))
    results = {"ssl": {"mine": result}, "raw pixels": {"mine": result}}
    paths = list(draw_evaluation_figures([faces], results, ["ssl"], tmp_path))
    assert [path.name for path in paths] == [
        "roc_mine.png", "det_mine.png", "scores_ssl_mine.png", "worst_ssl_mine.png",
    ]  # fmt: skip
    assert all(path.stat().st_size > 5_000 for path in paths)
    plain = paths[0].read_bytes()
    noted = next(draw_evaluation_figures([faces], results, ["ssl"], tmp_path, {"mine": "flip concat"}))
    assert noted.read_bytes() != plain
    path = draw_embedding_map("ssl", faces, embeddings, tmp_path)
    assert path is not None
    assert path.name == "map_ssl_mine.png"


def test_a_pair_is_decoded_where_it_is_looked_at(faces):
    side = PairSide(faces, 1, len(faces.issame))
    assert len(side) == 40
    np.testing.assert_array_equal(side[3], faces.faces.decode()[faces.second[3]])
