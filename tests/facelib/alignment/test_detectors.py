"""The detector registry and what it refuses."""

import subprocess
import sys

import numpy as np
import pytest

from facelib.alignment import Detections, build_detector, register_detector
from facelib.alignment import detectors as module


@pytest.fixture
def registry(monkeypatch):
    """A registry of its own, so that tests leave nothing behind."""
    monkeypatch.setattr(module, "_BUILDERS", dict(module._BUILDERS))


def test_a_detector_of_ones_own_is_built_by_name(registry):
    @register_detector("nobody")
    class Nobody:
        def __init__(self, patience: int = 1) -> None:
            self.patience = patience

        def detect(self, images):
            return [Detections.empty() for _ in images]

    assert build_detector("nobody", patience=3).patience == 3
    with pytest.raises(ValueError, match="patience"):
        build_detector("nobody", patients=3)
    with pytest.raises(ValueError, match="nobody"):
        build_detector("somebody")
    with pytest.raises(ValueError, match="registered already"):
        register_detector("nobody")(Nobody)


def test_unknown_names_and_settings_list_what_exists():
    with pytest.raises(ValueError, match=r"'dlib'.*mtcnn.*retinaface"):
        build_detector("dlib")
    with pytest.raises(ValueError, match=r"'treshold'.*nms_threshold.*score_threshold"):
        build_detector("retinaface", treshold=0.5)
    # Names and settings are checked before TensorFlow is looked for.
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
def test_anything_but_an_rgb_picture_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        build_detector("retinaface").detect([np.zeros((8, 8, 3), np.uint8), image])


def test_importing_alignment_imports_no_runtime():
    code = (
        "import sys, facelib.alignment; print([m for m in ('tensorflow', 'onnxruntime', 'mtcnn') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
