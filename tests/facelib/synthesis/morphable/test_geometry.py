import numpy as np

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.geometry import COLUMNS, HEAD_ROWS, ROWS, normals, shape_head
from facelib.synthesis.morphable.motion import EXPRESSIONS
from facelib.synthesis.morphable.traits import traits_of


def test_a_head_has_human_measures() -> None:
    head = shape_head(traits_of(identity_latents(0, np.array([1]))[0]))
    assert head.rest.shape == (ROWS, COLUMNS, 3)
    skull = head.rest[:HEAD_ROWS]
    width = np.ptp(skull[:120, :, 0])
    assert 12 < width < 19, "cm"
    assert 8 < head.rest[..., 1].max() < 15
    assert head.places["chin_y"] < head.places["mouth_y"] < head.places["nose_y"] < head.places["eye_y"]
    assert head.places["eye_y"] < head.places["brow_y"]
    assert np.isfinite(head.rest).all()
    assert 0.2 < head.occlusion.min() <= head.occlusion.max() < 1.3


def test_normals_of_a_sphere_point_outward() -> None:
    polar = np.linspace(0.2, 2.9, 40)[:, None]
    around = np.linspace(-3.0, 3.0, 60)[None]
    x, z = np.sin(polar) * np.sin(around), np.sin(polar) * np.cos(around)
    grid = np.stack([x, np.broadcast_to(np.cos(polar), x.shape), z]).astype(np.float32)
    n = normals(grid)
    np.testing.assert_allclose((n * n).sum(0), 1, atol=1e-5)
    assert ((n * grid).sum(0)[1:-1, 1:-1] > 0.995).all()


def test_the_jaw_falls_and_the_upper_face_stays() -> None:
    head = shape_head(traits_of(identity_latents(0, np.array([2]))[0]))
    activations = np.zeros(len(EXPRESSIONS))
    activations[EXPRESSIONS.index("jaw")] = 1.5
    still, moved = head.moved(0 * activations), head.moved(activations)
    np.testing.assert_array_equal(still, np.moveaxis(head.rest, -1, 0))
    fall = (still - moved)[1, :HEAD_ROWS, COLUMNS // 2]
    height = still[1, :HEAD_ROWS, COLUMNS // 2]
    chin = np.abs(height - head.places["chin_y"] - 0.5) < 0.5
    assert fall[chin].max() > 1.3
    assert np.abs(fall[height > head.places["nose_y"]]).max() < 0.05
