"""MTCNN against what the PyPI package computes on TensorFlow (tests/golden/make_mtcnn.py)."""

import subprocess
import sys

import numpy as np
import pytest

from facelib.alignment import build_detector
from facelib.alignment.mtcnn import pyramid_scales


@pytest.fixture(scope="module")
def pictures(mtcnn_golden) -> list[np.ndarray]:
    """A public photograph, uint8 RGB: a face about 60 pixels wide, mirrored, and brighter; all of one size."""
    return list(mtcnn_golden["images"][:3])


@pytest.fixture(scope="module")
def detector():
    return build_detector("mtcnn")


def test_agrees_with_retinaface(detector, pictures):
    for found, other in zip(detector.detect(pictures), build_detector("retinaface").detect(pictures)):
        assert len(found) == 1
        assert np.abs(found.landmarks - other.landmarks).max() < 6
        assert found.landmarks.dtype == np.float32


def test_equals_the_package(detector, mtcnn_golden):
    """The last image has three faces."""
    rows = mtcnn_golden["faces"]
    results = detector.detect(list(mtcnn_golden["images"]))
    assert [len(found) for found in results] == [1, 1, 1, 3]
    for number, found in enumerate(results):
        expected = rows[rows[:, 0] == number]
        expected = expected[np.argsort(-expected[:, 5])]
        np.testing.assert_allclose(found.boxes, expected[:, 1:5], atol=1e-3)
        np.testing.assert_allclose(found.scores, expected[:, 5], atol=1e-5)
        landmarks = expected[:, 6:].reshape(-1, 2, 5).transpose(0, 2, 1)
        np.testing.assert_allclose(found.landmarks, landmarks, atol=1e-3)


def test_batch_equals_single_in_any_order_and_size(detector, pictures):
    mixed = [*pictures, pictures[0][:221], np.zeros((40, 50, 3), np.uint8)]
    single = [detector.detect([picture])[0] for picture in mixed]
    for first, second in zip(single, reversed(detector.detect(mixed[::-1]))):
        assert len(first) == len(second)
        np.testing.assert_array_equal(first.landmarks, second.landmarks)
        np.testing.assert_array_equal(first.boxes, second.boxes)
    assert [len(found) for found in single] == [1, 1, 1, 1, 0]


def test_large_smallest_face_still_finds_faces(pictures):
    """The package's own pyramid finds nothing here, for any picture of the batch, and says nothing."""
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


@pytest.mark.slow
def test_neither_tensorflow_nor_the_packages_code_is_needed():
    """Building reads no weights: a job's driver checks its settings with it."""
    code = (
        "import sys\n"
        "sys.modules['tensorflow'] = None\n"
        "import numpy as np\n"
        "from facelib.alignment import build_detector\n"
        "detector = build_detector('mtcnn')\n"
        "assert 'torch' not in sys.modules\n"
        "detector.detect([np.zeros((60, 60, 3), np.uint8)])\n"
        "assert not any(name.split('.')[0] in ('mtcnn', 'joblib') for name in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "settings", [{"min_face_size": 5}, {"scale_factor": 1.0}, {"device": "tpu"}, {"proposal_thresholds": (0.6, 7.0)}]
)
def test_settings_out_of_range_are_named(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        build_detector("mtcnn", **settings)
