"""RetinaFace against the package its weights come from, on a public photograph that matplotlib ships."""

import cv2
import matplotlib.cbook
import matplotlib.image
import numpy as np
import pytest
import retinaface as package

from facelib.alignment import build_detector


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """Rear Admiral Grace Hopper, one face, uint8 [600, 512, 3] RGB."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        return matplotlib.image.imread(file, format="jpg").copy()


@pytest.fixture(scope="module")
def pictures(portrait) -> list[np.ndarray]:
    """One to four faces, several sizes, odd sides, none a multiple of the strides."""
    small = cv2.resize(portrait, (171, 201), interpolation=cv2.INTER_AREA)
    pair = np.concatenate([small, small[:, ::-1]], axis=1)
    four = np.concatenate([pair, 255 - pair // 2, pair], axis=0)
    return [portrait, small, pair, four, np.ascontiguousarray(portrait[10:411, 90:401])]


def same(first, second) -> bool:
    fields = ("boxes", "scores", "landmarks")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in fields)


def test_finds_the_face_with_its_landmarks(portrait):
    [found] = build_detector("retinaface").detect([portrait])
    assert len(found) == 1
    assert found.scores[0] > 0.99
    left_eye, right_eye, nose, left_mouth, right_mouth = found.landmarks[0]
    left, top, right, bottom = found.boxes[0]
    assert left < left_eye[0] < nose[0] < right_eye[0] < right
    assert top < max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]) < bottom
    assert left_mouth[0] < right_mouth[0]
    for array in (found.boxes, found.scores, found.landmarks):
        assert array.dtype == np.float32


def test_equals_the_package_before_its_rounding(pictures):
    """The package cuts coordinates to whole pixels; scores and the order of faces are its own."""
    detector = build_detector("retinaface", score_threshold=0.5, max_size=4096)
    faces = 0
    for picture, found in zip(pictures, detector.detect(pictures)):
        expected = package.detect_faces(picture, score_threshold=0.5, nms_threshold=0.4)
        np.testing.assert_allclose(found.scores, [face.score for face in expected], atol=1e-6)
        points = np.array([[(p.x, p.y) for p in face.landmarks] for face in expected])
        boxes = np.array([[f.x, f.y, f.x + f.width, f.y + f.height] for f in expected])
        fraction = found.landmarks - points
        assert (fraction > -0.01).all()
        assert (fraction < 1.01).all()
        assert (np.abs(found.boxes - boxes) < 2.01).all()
        faces += len(found)
    assert faces >= 9


def test_landmarks_follow_the_image_by_fractions_of_a_pixel(portrait):
    """Moving by the network's stride moves landmarks by as much: nothing is rounded on the way."""
    detector = build_detector("retinaface")
    moved = np.roll(portrait, 32, axis=1)
    first, second = detector.detect([portrait, moved])
    shift = second.landmarks[0] - first.landmarks[0]
    np.testing.assert_allclose(shift, np.tile([32.0, 0.0], (5, 1)), atol=0.05)
    assert np.abs(first.landmarks[0] % 1 - 0.5).min() < 0.4


def test_batch_equals_single_bit_for_bit_in_any_order(pictures):
    mixed = [*pictures, *(picture[:, ::-1] for picture in pictures), pictures[1]]
    order = np.random.default_rng(0).permutation(len(mixed))
    single = [build_detector("retinaface").detect([picture])[0] for picture in mixed]
    together = build_detector("retinaface", batch_size=3).detect(mixed)
    shuffled = build_detector("retinaface").detect([mixed[i] for i in order])
    assert all(same(a, b) for a, b in zip(single, together))
    assert all(same(single[i], found) for i, found in zip(order, shuffled))


def test_channel_order_is_rgb(portrait):
    """Handed over as BGR, the same face scores differently: the network sees color."""
    detector = build_detector("retinaface")
    rgb, bgr = detector.detect([portrait, np.ascontiguousarray(portrait[:, :, ::-1])])
    expected = package.detect_faces(portrait)[0].score
    assert rgb.scores[0] == pytest.approx(expected, abs=1e-6)
    assert abs(bgr.scores[0] - expected) > 1e-6


def test_large_images_are_shrunk_and_results_are_in_source_pixels(portrait):
    large = cv2.resize(portrait, (3072, 3600), interpolation=cv2.INTER_CUBIC)
    detector = build_detector("retinaface", max_size=600)
    [found], [expected] = detector.detect([large]), detector.detect([portrait])
    assert len(found) == 1
    np.testing.assert_allclose(found.landmarks, expected.landmarks * 6, atol=6)
    np.testing.assert_allclose(found.boxes, expected.boxes * 6, atol=12)


def test_noise_and_tiny_pictures_hold_no_face():
    random = np.random.default_rng(0)
    shapes = [(128, 128), (250, 250), (1, 1), (7, 40), (33, 31)]
    pictures = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    found = build_detector("retinaface").detect([*pictures, np.zeros((64, 64, 3), np.uint8)])
    assert [len(each) for each in found] == [0] * 6
    assert found[0].landmarks.shape == (0, 5, 2)
    assert build_detector("retinaface").detect([]) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_threshold": 1.5}, "score_threshold is 1.5"),
        ({"max_size": 5}, "max_size is 5"),
        ({"threads": 0}, "threads is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"device": "tpu"}, "'auto', 'cpu' or 'cuda'"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        build_detector("retinaface", **settings)
