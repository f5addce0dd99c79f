"""The export job: its files, and the artifacts of its run."""

import json

import mlflow
import numpy as np
import pandas
import pytest
import torch
from support.datasets import pattern
from support.models import TINY

from facelib.config import load_settings
from facelib.data import encode_image
from facelib.embedding import embed_images
from facelib.export import OnnxEmbedder
from facelib.models import build_backbone, save_backbone
from ray_jobs.errors import JobError
from ray_jobs.export import export


@pytest.fixture
def backbone(tmp_path):
    torch.manual_seed(0)
    network = build_backbone("iresnet", **TINY).eval()
    image_spec = {"template": "arcface", "size": 112, "color": "RGB"}
    save_backbone(tmp_path / "out" / "ssl" / "model.pt", network, "iresnet", TINY, image_spec)
    return network


@pytest.mark.slow
def test_a_checkpoint_becomes_an_onnx_file_and_an_mlflow_model(backbone, tmp_path, run):
    settings = load_settings(None, [f"output={tmp_path}/out"])
    for _ in range(2):  # The second export replaces the first.
        result = export(settings, run)
        assert result.written == (f"{tmp_path}/out/export",)
        assert result.metrics["onnx/difference"] < 1e-4
    faces = np.stack([pattern(i, 0) for i in range(3)])
    expected = embed_images(backbone, faces)
    embeddings = OnnxEmbedder(tmp_path / "out" / "export" / "model.onnx").embed(faces)
    np.testing.assert_allclose(embeddings, expected, atol=1e-4 * np.abs(expected).max())
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    table = pandas.DataFrame({"image": [encode_image(face, 100) for face in faces]})
    mlflow.set_tracking_uri(run.uri)
    for uri in (f"{tmp_path}/out/export/mlflow_model", f"runs:/{run.run_id}/mlflow_model"):
        model = mlflow.pyfunc.load_model(uri)
        rows = np.array(model.predict(table, params={"aligned": True})["embedding"].tolist())
        assert (rows * unit).sum(1).min() > 0.99  # JPEG
        # The example is a synthetic face, detected and embedded.
        assert model.predict(model.input_example)["faces"].tolist() == [1]
    metrics = run.client.get_run(run.run_id).data.metrics
    assert metrics["onnx/difference"] < 1e-4
    assert json.loads((tmp_path / "out/export/mlflow_model/artifacts/pipeline.json").read_text())["min_score"] == 0.8


def test_onnx_alone_and_a_missing_checkpoint(backbone, tmp_path, run):
    export(load_settings(None, [f"output={tmp_path}/out", "export.mlflow=false", "export.folder=other"]), run)
    assert [p.name for p in (tmp_path / "out" / "other").iterdir()] == ["model.onnx"]
    with pytest.raises(JobError, match=r"export\.model: .*gone\.pt does not exist; train it first"):
        export(load_settings(None, [f"output={tmp_path}/out", "export.model=gone.pt"]), run)
