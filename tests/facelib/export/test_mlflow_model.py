"""Pictures in, embeddings out: in this process and in a fresh one that imports MLflow alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from support.datasets import pattern

from facelib.data import decode_image, encode_image
from facelib.embedding import embed_images
from facelib.export import FacePipeline, export_onnx, save_mlflow_model
from facelib.models import build_backbone
from facelib.synthesis import build_generator


@pytest.fixture(scope="module")
def backbone():
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
    """A rendered person, whom the detector finds."""
    generator, first = build_generator("morphable", max_yaw_degrees=10.0), np.zeros(1, np.int64)
    return encode_image(
        generator.render(generator.identity_codes(0, first), generator.image_factors(0, first, first))[0]
    )


def test_pictures_become_embeddings(backbone, onnx, portrait):
    pipeline = FacePipeline(onnx)
    found, damaged, blank = pipeline([portrait, b"no picture", encode_image(np.zeros((128, 128, 3), np.uint8))])
    assert np.linalg.norm(found["embedding"]) == pytest.approx(1, abs=1e-5)
    assert (found["faces"], found["rejected"], len(found["landmarks"])) == (1, "", 10)
    assert found["score"] > 0.8
    left, top, right, bottom = found["box"]
    assert 0 <= left < right <= 130
    assert 0 <= top < bottom <= 130
    # The same crop through PyTorch.
    from facelib.alignment import align_face

    landmarks = np.reshape(found["landmarks"], (5, 2))
    crop = align_face(decode_image(portrait), landmarks)
    expected = embed_images(backbone, crop[None])[0]
    np.testing.assert_allclose(found["embedding"], expected / np.linalg.norm(expected), atol=2e-4)
    assert damaged["embedding"] == blank["embedding"] == []
    assert "not a decodable image" in damaged["rejected"]
    assert blank["rejected"].startswith("no_face")


def test_crops_are_taken_as_they_are(backbone, onnx):
    faces = [pattern(1, 0), pattern(2, 0), pattern(3, 0, 96)]
    rows = FacePipeline(onnx)([encode_image(f) for f in faces], aligned=True, flip=False)
    expected = embed_images(backbone, [encode_image(f) for f in faces[:2]], flip=False)
    for row, vector in zip(rows, expected, strict=False):
        np.testing.assert_allclose(row["embedding"], vector / np.linalg.norm(vector), atol=2e-4)
    assert rows[2]["rejected"] == "96x96 pixels; an aligned face has 112x112"
    assert FacePipeline(onnx)([]) == []


def test_the_mlflow_model_loads_in_a_fresh_process(onnx, portrait, tmp_path):
    model = save_mlflow_model(tmp_path / "model", onnx, portrait, metadata={"checkpoint": "x.pt"})
    code = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "import mlflow, pandas\n"
        "model = mlflow.pyfunc.load_model(sys.argv[1])\n"
        "picture = Path(sys.argv[2]).read_bytes()\n"
        "table = model.predict(pandas.DataFrame({'image': [picture, b'?']}))\n"
        "example = model.predict(model.input_example)\n"
        "crop = model.predict(pandas.DataFrame({'image': [picture]}), params={'aligned': True})\n"
        "import facelib\n"
        "print(json.dumps([table.to_dict('list'), len(example), list(crop['rejected']), facelib.__file__,\n"
        "                  model.metadata.metadata, model.metadata.signature.to_dict(), 'torch' in sys.modules]))\n"
    )
    (tmp_path / "portrait.jpg").write_bytes(portrait)
    # -I: neither this folder nor PYTHONPATH; the library the model brought itself is what can be imported.
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(model), str(tmp_path / "portrait.jpg")],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    table, examples, crop, library, metadata, signature, torch_loaded = json.loads(done.stdout.splitlines()[-1])
    here = FacePipeline(onnx)([portrait])[0]
    np.testing.assert_allclose(table["embedding"][0], here["embedding"], atol=1e-5)
    assert (examples, table["faces"]) == (1, [1, 0])
    assert crop == ["128x128 pixels; an aligned face has 112x112"]
    assert library.startswith(str(model))
    assert metadata == {"checkpoint": "x.pt", "image_spec": {"template": "arcface", "size": 112, "color": "RGB"}}
    assert '"image"' in signature["inputs"]
    assert not torch_loaded
    assert not list(model.rglob("*.pkl"))
    with pytest.raises(FileExistsError, match="exists already"):
        save_mlflow_model(model, onnx, portrait)
