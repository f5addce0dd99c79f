"""MTCNN against the package it is built on. Needs the optional extra `tensorflow`."""

import subprocess
import sys

import cv2
import matplotlib.cbook
import matplotlib.image
import numpy as np
import pytest

from facelib.alignment import build_detector
from facelib.alignment.mtcnn import pyramid_scales

NO_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from facelib.alignment import build_detector
try:
    build_detector("mtcnn")
except ImportError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def pictures() -> list[np.ndarray]:
    """A public photograph, uint8 RGB: a face about 60 pixels wide, mirrored, and brighter; all of one size."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        portrait = matplotlib.image.imread(file, format="jpg")
    small = cv2.resize(portrait, (214, 250), interpolation=cv2.INTER_AREA)
    return [small, np.ascontiguousarray(small[:, ::-1]), small // 2 + 100]


@pytest.fixture(scope="module")
def detector():
    pytest.importorskip("mtcnn", reason="needs pip install 'facelib[tensorflow]'")
    return build_detector("mtcnn")


def test_missing_tensorflow_names_the_extra():
    message = subprocess.check_output([sys.executable, "-c", NO_TENSORFLOW], text=True)
    assert "pip install 'facelib[tensorflow]'" in message


def test_agrees_with_retinaface(detector, pictures):
    for found, other in zip(detector.detect(pictures), build_detector("retinaface").detect(pictures)):
        assert len(found) == 1
        assert np.abs(found.landmarks - other.landmarks).max() < 6
        assert found.landmarks.dtype == np.float32


def test_equals_the_package(detector, pictures):
    import mtcnn

    rows = mtcnn.MTCNN().detect_faces(pictures, output_type="numpy", box_format="xyxy", fit_to_image=False)
    assert rows[:, 0].tolist() == [0, 1, 2]
    for found, row in zip(detector.detect(pictures), rows):
        np.testing.assert_allclose(found.boxes[0], row[1:5], atol=1e-3)
        np.testing.assert_allclose(found.scores[0], row[5], atol=1e-5)
        np.testing.assert_allclose(found.landmarks[0], row[6:].reshape(2, 5).T, atol=1e-3)


def test_batch_equals_single_in_any_order_and_size(detector, pictures):
    mixed = [*pictures, pictures[0][:221], np.zeros((40, 50, 3), np.uint8)]
    single = [detector.detect([picture])[0] for picture in mixed]
    for first, second in zip(single, reversed(detector.detect(mixed[::-1]))):
        assert len(first) == len(second)
        np.testing.assert_allclose(first.landmarks, second.landmarks, atol=1e-3)
    assert [len(found) for found in single] == [1, 1, 1, 1, 0]


def test_large_smallest_face_still_finds_faces(pictures):
    """The package's own pyramid finds nothing here, for any picture of the batch, and says nothing."""
    pytest.importorskip("mtcnn", reason="needs pip install 'facelib[tensorflow]'")
    found = build_detector("mtcnn", min_face_size=50).detect(pictures)
    assert [len(each) for each in found] == [1, 1, 1]


def test_noise_and_tiny_pictures_hold_no_face(detector):
    random = np.random.default_rng(0)
    sizes = [5, 11, 12, 13, 19, 20, 21, 100]
    noise = [random.integers(0, 256, (side, side + 1, 3), dtype=np.uint8) for side in sizes]
    assert [len(found) for found in detector.detect(noise)] == [0] * len(sizes)
    assert detector.detect([]) == []


@pytest.mark.parametrize("min_face_size", [12, 20, 60, 100])
@pytest.mark.parametrize("side", [12, 59, 60, 61, 128, 250, 1024])
def test_pyramid_ends_at_12_pixels(side, min_face_size):
    scales = pyramid_scales(side, side + 7, min_face_size, 0.709)
    assert len(scales) == 0 if side < min_face_size else scales[0] == 12 / min_face_size
    assert all(side * scale > 11.99 for scale in scales)
    if scales:
        assert side * scales[-1] * 0.709 < 12.01


def test_building_starts_nothing():
    """A job's driver checks its settings with it."""
    code = "import sys; from facelib.alignment import build_detector; build_detector('mtcnn')"
    code += "; assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "settings", [{"min_face_size": 5}, {"scale_factor": 1.0}, {"device": "tpu"}, {"proposal_thresholds": (0.6, 7.0)}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build_detector("mtcnn", **settings)
