import numpy as np
import onnx
import pytest
import torch
from support.datasets import pattern
from support.models import TINY

from facelib.embedding import embed_images
from facelib.export import ExportError, OnnxEmbedder, export_onnx, onnx_model
from facelib.models import build_backbone


@pytest.fixture(scope="module")
def backbone():
    """A small network in training mode, whose running statistics are not the initial ones."""
    torch.manual_seed(0)
    network = build_backbone("iresnet", **TINY)
    with torch.no_grad():
        for _ in range(5):
            network.train()(torch.randn(8, 3, 112, 112))
    return network


def test_the_exported_network_computes_the_same(backbone, tmp_path):
    path = tmp_path / "new" / "model.onnx"
    check = export_onnx(backbone, path, {"template": "arcface", "size": 112})
    assert check.batches == (1, 7)
    assert check.difference < 1e-4
    assert backbone.training
    embedder = OnnxEmbedder(path, threads=1)
    assert embedder.image_spec == {"template": "arcface", "size": 112}
    faces = np.stack([pattern(i, 0) for i in range(5)])
    for flip in (True, False):
        expected = embed_images(backbone, faces, flip=flip)
        np.testing.assert_allclose(embedder.embed(faces, flip), expected, atol=1e-4 * np.abs(expected).max())
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["embeddings"]


@pytest.mark.parametrize("name", ["mobilefacenet", "iresnet10-narrow"])
def test_other_networks(name, tmp_path):
    torch.manual_seed(1)
    check = export_onnx(build_backbone(name, embedding_size=32), tmp_path / "model.onnx", batches=(3,))
    assert check.difference < 1e-4


def test_a_difference_is_an_error_and_nothing_is_written(backbone, tmp_path, monkeypatch):
    """A network that onnxruntime does not compute as PyTorch does."""
    real = onnx_model.OnnxEmbedder.run
    monkeypatch.setattr(onnx_model.OnnxEmbedder, "run", lambda self, images: real(self, images) * 1.001)
    with pytest.raises(ExportError, match=r"differ from PyTorch's by 0\.001 of their largest value, more than 0\.0001"):
        export_onnx(backbone, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_faces_of_another_size_are_refused(backbone, tmp_path):
    export_onnx(backbone, tmp_path / "model.onnx", batches=(1,))
    with pytest.raises(ValueError, match=r"faces must be uint8 \[N, 112, 112, 3\]"):
        OnnxEmbedder(tmp_path / "model.onnx").embed(np.zeros((1, 96, 96, 3), np.uint8))
