"""A small exported network and a face, shared by the tests of the pipeline and of its MLflow model."""

import numpy as np
import pytest
import torch

from facelib.data import encode_image
from facelib.export import export_onnx
from facelib.models import build_backbone
from facelib.synthesis import build_generator


@pytest.fixture(scope="module")
def backbone():
    """A small network in evaluation mode, whose running statistics are not the initial ones."""
    torch.manual_seed(0)
    network = build_backbone("iresnet", embedding_size=16, layers=[1, 1, 1, 1], width=0.25, stem_stride=2)
    with torch.no_grad():
        for _ in range(5):
            network.train()(torch.randn(8, 3, 112, 112))
    return network.eval()


@pytest.fixture(scope="module")
def onnx(backbone, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(backbone, path, {"template": "arcface", "size": 112, "color": "RGB"})
    return path


@pytest.fixture(scope="module")
def portrait():
    """JPEG of a rendered face that the detector finds."""
    generator, first = build_generator("morphable", max_yaw_degrees=10.0), np.zeros(1, np.int64)
    return encode_image(
        generator.render(generator.identity_codes(0, first), generator.image_factors(0, first, first))[0]
    )
