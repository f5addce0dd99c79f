import numpy as np
import pytest

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.geometry import HEAD_ROWS, HeadShape, shape_head
from facelib.synthesis.morphable.motion import EXPRESSIONS, expression_fields, smoothstep
from facelib.synthesis.morphable.traits import traits_of


@pytest.fixture(scope="module")
def head() -> HeadShape:
    return shape_head(traits_of(identity_latents(0, np.array([3]))[0]))


@pytest.fixture(scope="module")
def fields(head: HeadShape) -> np.ndarray:
    """Displacements with the whole grid taken as face, [K, 3, rows, U]."""
    face = head.rest[:HEAD_ROWS]
    return expression_fields(head.places, face, np.ones(face.shape[:2], np.float32))


def _field(fields: np.ndarray, name: str) -> np.ndarray:
    return fields[EXPRESSIONS.index(name)]


def test_one_bounded_displacement_field_per_expression(head: HeadShape, fields: np.ndarray) -> None:
    assert fields.shape == (len(EXPRESSIONS), 3, *head.rest[:HEAD_ROWS].shape[:2])
    assert np.isfinite(fields).all()
    largest = np.abs(fields).max((1, 2, 3))
    assert (largest > 0.05).all(), "every expression moves the skin"
    assert largest.max() < 1.5, "cm"


def test_directions(fields: np.ndarray) -> None:
    assert _field(fields, "jaw")[1].max() <= 0
    assert _field(fields, "brow_up")[1].min() >= 0
    assert _field(fields, "upper_lip")[1].min() >= 0
    assert _field(fields, "puff")[2].min() >= 0
    np.testing.assert_allclose(_field(fields, "pucker")[0], -1.5 * _field(fields, "wide")[0], atol=1e-6)


def test_sideways_pulls_vanish_at_the_midline(head: HeadShape, fields: np.ndarray) -> None:
    """Opposite displacements on the two sides of x = 0 would tear the surface."""
    middle = np.abs(head.rest[:HEAD_ROWS, :, 0]) < 0.05
    assert middle.any()
    for name in ("smile", "wide", "pucker", "frown", "puff", "weight"):
        assert np.abs(_field(fields, name)[0][middle]).max() < 0.05, name


def test_only_the_jaw_moves_outside_the_face(head: HeadShape) -> None:
    face = head.rest[:HEAD_ROWS]
    outside = expression_fields(head.places, face, np.zeros(face.shape[:2], np.float32))
    moving = {name for name in EXPRESSIONS if np.abs(_field(outside, name)).max() > 0}
    assert moving == {"jaw", "jaw_side"}


def test_smoothstep_is_clamped_monotonic_and_symmetric() -> None:
    values = smoothstep(np.linspace(-1, 5, 61), 1.0, 3.0)
    assert values[0] == 0
    assert values[-1] == 1
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(values + values[::-1], 1, atol=1e-12)
