"""Results by model and set, in the order of the work."""

import numpy as np
from support.datasets import write_dataset

from facelib.config import load_settings
from facelib.data import Folder
from facelib.evaluation import PixelEmbedding
from facelib.evaluation.protocols import open_set
from ray_jobs.embedding import measuring
from ray_jobs.embedding.models import EmbeddingModel


def test_results_keep_the_order_of_the_sets(tmp_path, monkeypatch):
    sets = [
        open_set(f"{name}={write_dataset(tmp_path / name, identities=12, images=2).folder.uri}", {"pairs": 10})
        for name in ("b", "a")
    ]
    model = EmbeddingModel("raw pixels", pixels=PixelEmbedding())
    rng = np.random.default_rng(0)

    def embed_sets(work, *_):
        for model, s in reversed(work):
            yield model, s, rng.normal(size=(len(s.faces), 4)).astype(np.float32)

    monkeypatch.setattr(measuring, "embed_sets", embed_sets)
    settings = load_settings(None, ["evaluate.bootstrap=0", "evaluate.fars=[0.1]"])
    folder = Folder(str(tmp_path / "evaluation")).create()
    results = measuring.measure_sets(settings, None, folder, [(model, s) for s in sets])
    assert list(results) == ["raw pixels"]
    assert list(results["raw pixels"]) == ["b", "a"]
