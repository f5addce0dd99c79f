"""Measures of single faces against what is known about them."""

import numpy as np
import pytest

from facelib.inspection import MEASURES, measure_faces, pose_from_landmarks
from facelib.inspection.measures import _MODEL
from facelib.synthesis import build_generator

FRONTAL = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [70, 92]], np.float64)


def rotated(yaw, pitch, roll):
    """Landmarks of the average face, turned by degrees: nose to the picture's right, up, clockwise."""
    y, p, r = np.deg2rad([-yaw, pitch, roll])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return (_MODEL @ (about_z @ about_y @ about_x).T)[:, :2] * 0.7 + 50


def test_smallest_example():
    found = measure_faces(np.full((2, 112, 112, 3), 100, np.uint8), np.stack([FRONTAL, FRONTAL + 5]))
    assert list(found) == list(MEASURES)
    assert all(values.shape == (2,) for values in found.values())
    assert found["brightness"].tolist() == [100, 100]
    assert found["sharpness"].tolist() == [0, 0]


ANGLES = [(0, 0, 0), (30, 0, 0), (-45, 0, 0), (0, 20, 0), (0, -15, 0), (0, 0, 25), (20, -10, 5), (-30, 12, -20)]


@pytest.mark.parametrize("angles", ANGLES)
def test_pose_of_a_turned_average_face(angles):
    np.testing.assert_allclose(pose_from_landmarks(rotated(*angles)[None])[0], angles, atol=1e-6)


@pytest.mark.slow
def test_yaw_follows_the_generators_own():
    generator = build_generator("morphable", image_size=64)
    identities, indices = np.arange(200), np.zeros(200, int)
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, indices)
    known = generator.yaw_degrees(factors)
    found = pose_from_landmarks(generator.landmarks(codes, factors))[:, 0]
    assert np.corrcoef(known, found)[0, 1] > 0.97
    assert np.abs(known - found).mean() < 6


def test_light_and_mouth():
    images = np.zeros((3, 112, 112, 3), np.uint8)
    images[0, :, 56:] = 200
    images[1, :, :, 0] = 120
    images[2] = np.random.default_rng(0).integers(0, 256, images[2].shape)
    open_mouth = FRONTAL + np.array([[0, 0], [0, 0], [0, 0], [0, 10], [0, 10]])
    found = measure_faces(images, np.stack([FRONTAL, open_mouth, FRONTAL]))
    assert found["side_light"][0] == pytest.approx(2)
    assert found["side_light"][1] == 0
    assert found["warmth"].tolist()[:2] == pytest.approx([0, 120])
    assert found["sharpness"].argmax() == 2
    assert found["mouth_drop"].tolist() == pytest.approx([1, 1.5, 1])
    assert found["mouth_width"][0] == pytest.approx(28 / 36)


def test_without_landmarks_and_with_wrong_ones():
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert "yaw" not in measure_faces(images)
    with pytest.raises(ValueError, match=r"\[N, 5, 2\], got \[2, 4, 2\]"):
        measure_faces(images, np.zeros((2, 4, 2)))
    with pytest.raises(ValueError, match="2 images have 3 sets"):
        measure_faces(images, np.zeros((3, 5, 2)))
    with pytest.raises(ValueError, match="float64"):
        measure_faces(images.astype(float))
    assert np.isfinite(list(measure_faces(images, np.zeros((2, 5, 2))).values())).all()
