import numpy as np

from facelib.synthesis.morphable.camera import make_camera, rotation_matrix


def test_a_frontal_camera_keeps_scale_and_directions() -> None:
    camera = make_camera(np.zeros(3), distance=100.0, pixels_per_cm=5.0, center=np.array([64.0, 64.0]))
    left, right, above = camera.project(np.array([[-3.0, 0, 8.0], [3.0, 0, 8.0], [0.0, 2.0, 8.0]]))
    np.testing.assert_allclose(right[0] - left[0], 30.0, rtol=1e-6)
    np.testing.assert_allclose(left[1] - above[1], 10.0, rtol=1e-6)
    np.testing.assert_allclose(left[2], 92.0)


def test_near_things_are_larger() -> None:
    camera = make_camera(np.zeros(3), distance=40.0, pixels_per_cm=5.0, center=np.array([64.0, 64.0]))
    near = np.diff(camera.project(np.array([[-3.0, 0, 12.0], [3.0, 0, 12.0]]))[:, 0])
    far = np.diff(camera.project(np.array([[-3.0, 0, 0.0], [3.0, 0, 0.0]]))[:, 0])
    assert near > 1.2 * far


def test_a_scaled_camera_sees_the_same() -> None:
    camera = make_camera(np.array([0.3, -0.2, 0.1]), 90.0, 5.0, np.array([60.0, 66.0]))
    points = np.array([[1.0, 2.0, 3.0], [-4.0, 0.0, 8.0]])
    np.testing.assert_allclose(camera.scaled(2.0).project(points)[:, :2], 2 * camera.project(points)[:, :2])


def test_rotation_is_orthogonal_and_signed_as_documented() -> None:
    r = rotation_matrix(0.4, -0.3, 0.2)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-12)
    forward = np.array([0.0, 0.0, 1.0])
    assert (rotation_matrix(0.4, 0, 0) @ forward)[0] > 0
    assert (rotation_matrix(0, 0.4, 0) @ forward)[1] < 0
