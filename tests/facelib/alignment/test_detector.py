"""The detector registry and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from facelib.alignment import Detections, build_detector, register_detector
from facelib.alignment import detector as module


@pytest.fixture
def registry(monkeypatch):
    """A registry of its own, so that tests leave nothing behind."""
    monkeypatch.setattr(module._REGISTRY, "_registered", dict(module._REGISTRY._registered))


def test_smallest_example(registry):
    @register_detector("none")
    class NoFaces:
        def __init__(self, top_k: int = 1) -> None:
            self.top_k = top_k

        def detect(self, images):
            return [Detections.empty() for _ in images]

    assert build_detector("none", top_k=3).top_k == 3
    with pytest.raises(ValueError, match="top_k"):
        build_detector("none", topk=3)
    with pytest.raises(ValueError, match="none"):
        build_detector("some")


@pytest.mark.parametrize("name", ["none", "retinaface", "mtcnn"])
def test_a_name_belongs_to_one_class(registry, name):
    register_detector("none")(dict)
    with pytest.raises(ValueError, match=rf"'{name}' is taken by"):
        register_detector(name)(list)


def test_unknown_names_and_settings_list_what_exists():
    with pytest.raises(ValueError, match=r"'dlib'.*mtcnn.*retinaface"):
        build_detector("dlib")
    with pytest.raises(ValueError, match=r"'treshold'.*score_threshold.*nms_threshold"):
        build_detector("retinaface", treshold=0.5)
    # Names and settings are checked before packages are looked for.
    with pytest.raises(ValueError, match=r"'min_size'.*min_face_size"):
        build_detector("mtcnn", min_size=20)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"images\[1\] is uint8 \[8, 8\]"),
        (np.zeros((8, 8, 3), np.float32), r"images\[1\] is float32"),
        (np.zeros((8, 8, 4), np.uint8), r"images\[1\]"),
        (np.zeros((0, 8, 3), np.uint8), "empty"),
        (None, r"images\[1\] is NoneType"),
    ],
)
def test_anything_but_an_rgb_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        build_detector("retinaface").detect([np.zeros((8, 8, 3), np.uint8), image])


def test_importing_alignment_imports_no_runtime():
    code = (
        "import sys, facelib.alignment; print([m for m in ('tensorflow', 'onnxruntime', 'mtcnn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
