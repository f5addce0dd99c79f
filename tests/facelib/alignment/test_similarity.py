"""Templates, similarity transform and warp against golden OpenCV results and a plain least-squares fit."""

from pathlib import Path

import numpy as np
import pytest

from facelib.alignment import TEMPLATES, align_face, similarity_transform

GOLDEN = Path(__file__).parents[2] / "golden" / "align.npz"
GOLDEN_TEMPLATES = {"arcface": "eval_template", "arcface-96": "train_template"}


def least_squares(landmarks: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Solve x' = a x - b y + c, y' = b x + a y + d for (a, b, c, d) in float64."""
    rows, values = [], []
    for (x, y), (u, v) in zip(landmarks, template):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, c, d = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d]])


def test_a_face_on_the_template_stays_where_it_is():
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    matrix = similarity_transform(TEMPLATES["arcface"], TEMPLATES["arcface"])
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_array_equal(align_face(image, TEMPLATES["arcface"]), image)


@pytest.mark.parametrize("template", GOLDEN_TEMPLATES)
@pytest.mark.parametrize("face", range(4))
def test_golden_matrices_and_crops(template, face):
    golden = np.load(GOLDEN)
    folder = f"align/{GOLDEN_TEMPLATES[template]}"
    landmarks = golden[f"align/landmarks{face}"]
    matrix = similarity_transform(landmarks, TEMPLATES[template])
    np.testing.assert_allclose(matrix, golden[f"{folder}/matrix{face}"], atol=1e-4)
    crop = align_face(golden["align/image_bgr"], landmarks, template)
    off = np.abs(crop.astype(int) - golden[f"{folder}/warped{face}"])
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8
    assert (off <= 1).mean() >= 0.99


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("noise", [0.0, 2.0, 30.0])
def test_equals_plain_least_squares_also_on_mirrored_landmarks(mirrored, noise):
    random = np.random.default_rng(int(noise) + mirrored)
    for _ in range(50):
        angle, scale = random.uniform(-np.pi, np.pi), random.uniform(0.2, 8)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        landmarks = TEMPLATES["arcface"] @ turn.T + random.uniform(-500, 500, 2) + random.normal(0, 1, (5, 2)) * noise
        if mirrored:
            landmarks[:, 0] *= -1
        matrix = similarity_transform(landmarks, TEMPLATES["arcface"])
        np.testing.assert_allclose(matrix, least_squares(landmarks, TEMPLATES["arcface"]), rtol=1e-7, atol=1e-7)
        assert np.linalg.det(matrix[:, :2]) > 0


def test_unrelated_points_also_get_the_least_squares_fit():
    random = np.random.default_rng(5)
    for _ in range(200):
        landmarks, template = random.normal(0, 50, (2, 5, 2))
        expected = least_squares(landmarks, template)
        np.testing.assert_allclose(similarity_transform(landmarks, template), expected, rtol=1e-6, atol=1e-6)


def test_batch_equals_single_in_any_order():
    landmarks = np.random.default_rng(1).normal(60, 25, (33, 5, 2)).astype(np.float32)
    order = np.random.default_rng(2).permutation(33)
    batch = similarity_transform(landmarks, TEMPLATES["arcface"])
    assert batch.shape == (33, 2, 3)
    np.testing.assert_array_equal(batch[order], similarity_transform(landmarks[order], TEMPLATES["arcface"]))
    np.testing.assert_array_equal(batch, [similarity_transform(each, TEMPLATES["arcface"]) for each in landmarks])
    assert similarity_transform(landmarks[:0], TEMPLATES["arcface"]).shape == (0, 2, 3)


def with_nan() -> np.ndarray:
    landmarks = TEMPLATES["arcface"].copy()
    landmarks[3, 1] = np.nan
    return landmarks


@pytest.mark.parametrize("landmarks", [with_nan(), np.full((5, 2), np.inf), np.full((5, 2), 80.3), np.zeros((5, 2))])
def test_degenerate_landmarks_are_refused_and_named(landmarks):
    with pytest.raises(ValueError, match="degenerate"):
        similarity_transform(landmarks, TEMPLATES["arcface"])
    with pytest.raises(ValueError, match=r"faces \[1\]"):
        similarity_transform(np.stack([TEMPLATES["arcface"], landmarks]), TEMPLATES["arcface"])


def test_mirrored_square_has_no_best_rotation():
    square = np.array([(-1, -1), (1, -1), (0, 0), (-1, 1), (1, 1)], dtype=float)
    with pytest.raises(ValueError, match="mirrored"):
        similarity_transform(square * (-1, 1), square)


def test_size_scales_the_template():
    image = np.random.default_rng(3).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    landmarks = TEMPLATES["arcface"] * 0.6 + 3
    matrix = similarity_transform(landmarks, TEMPLATES["arcface"] * 2)
    assert align_face(image, landmarks, size=224).shape == (224, 224, 3)
    np.testing.assert_allclose(matrix[:, :2], np.eye(2) / 0.3, atol=1e-9)


def test_border_is_black_and_bilinear_in_between():
    image = np.full((112, 112, 3), 200, dtype=np.uint8)
    crop = align_face(image, TEMPLATES["arcface"] + (20.5, 0))
    assert (crop[:, :91] == 200).all()
    assert (crop[:, 91] == 100).all()
    assert (crop[:, 92:] == 0).all()


def test_padded_template_shows_a_quarter_more_on_each_side():
    # The enlarged crop is 168 wide; its 28 pixels of margin become 28 / 1.5.
    np.testing.assert_allclose(TEMPLATES["arcface-padded"], TEMPLATES["arcface"] / 1.5 + 28 / 1.5)


def test_arcface_96_is_8_pixels_to_the_left():
    np.testing.assert_allclose(TEMPLATES["arcface"] - TEMPLATES["arcface-96"], np.tile([8.0, 0.0], (5, 1)))


def test_templates_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        TEMPLATES["arcface"][0, 0] = 1


def test_mistakes_are_named():
    image = np.zeros((50, 50, 3), np.uint8)
    with pytest.raises(ValueError, match="arcface-96"):
        align_face(image, TEMPLATES["arcface"], template="arcfase")
    with pytest.raises(ValueError, match=r"\(4, 2\)"):
        similarity_transform(np.zeros((4, 2)), TEMPLATES["arcface"])
    with pytest.raises(ValueError, match="size is 0"):
        align_face(image, TEMPLATES["arcface"], size=0)
    with pytest.raises(ValueError, match="float64"):
        align_face(image.astype(np.float64), TEMPLATES["arcface"])
    with pytest.raises(ValueError, match=r"\[5, 2\]"):
        similarity_transform(TEMPLATES["arcface"], np.zeros((3, 2)))
