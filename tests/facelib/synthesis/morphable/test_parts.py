import numpy as np
import pytest

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.geometry import shape_head
from facelib.synthesis.morphable.parts import EyeState, MouthState, iris_color, paint_eye, paint_mouth
from facelib.synthesis.morphable.traits import traits_of

TRAITS = traits_of(identity_latents(0, np.array([2]))[0])
PLACES = shape_head(TRAITS).places
SKIN = np.array([0.8, 0.6, 0.5], np.float32)
LIPS = np.array([0.7, 0.35, 0.35], np.float32)


def _patch(x: float, y: float, radius: float = 3.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bare skin [121, 121, 3] around a point, and the coordinates x, y in cm (y up)."""
    steps = np.linspace(-radius, radius, 121, dtype=np.float32)
    xs, ys = np.meshgrid(x + steps, y - steps)
    return np.tile(SKIN, (121, 121, 1)), xs, ys


def _eye(side: float = 1.0, openness: float = 1.0, gaze: tuple[float, float] = (0.0, 0.0)) -> tuple[np.ndarray, ...]:
    albedo, x, y = _patch(side * PLACES["eye_x"], PLACES["eye_y"])
    state = EyeState(openness, gaze, 0.0, 0.0, SKIN, 0.0)
    return albedo, paint_eye(albedo, x, y, side, TRAITS, PLACES, state)


def _mouth(gap: float, teeth: float = 1.0, gloss: float = 0.1) -> tuple[np.ndarray, ...]:
    albedo, x, y = _patch(0.0, PLACES["mouth_y"])
    state = MouthState(gap, teeth, LIPS, gloss)
    return albedo, paint_mouth(albedo, x, y, y, TRAITS, PLACES, state)


def test_an_eye_is_painted_into_the_skin() -> None:
    albedo, wet = _eye()
    assert wet.shape == (121, 121)
    assert wet.dtype == np.float32
    assert 0 < wet.max() <= 1
    assert np.abs(albedo[60, 60] - SKIN).max() > 0.2, "pupil and iris in the middle"
    np.testing.assert_allclose(albedo[-1], np.tile(SKIN, (121, 1)), atol=0.01, err_msg="the cheek stays bare")


def test_the_two_eyes_are_flipped_copies_when_looking_straight_ahead() -> None:
    left, right = _eye(-1.0)[0], _eye(1.0)[0]
    np.testing.assert_allclose(left, right[:, ::-1], atol=1e-3)


def test_gaze_moves_the_iris_and_shut_lids_hide_it() -> None:
    middle, right = _eye()[0], _eye(gaze=(0.8, 0.0))[0]

    def center(albedo: np.ndarray) -> float:
        dark = np.clip(0.15 - albedo[50:65].mean(-1), 0, None)
        return float((dark * np.arange(121)).sum() / dark.sum())

    assert center(right) > center(middle) + 2
    shut, wet = _eye(openness=0.05)
    assert wet.sum() < 0.2 * _eye()[1].sum()
    assert np.abs(shut - SKIN).sum() < np.abs(middle - SKIN).sum()


def test_an_open_mouth_shows_its_inside_and_teeth() -> None:
    closed, opened, toothless = _mouth(0.0)[0], _mouth(1.5)[0], _mouth(1.5, teeth=0.0)[0]
    assert np.abs(opened - closed).max() > 0.1
    assert (opened - toothless).max() > 0.3, "teeth are brighter than the cavity"
    np.testing.assert_array_equal(_mouth(0.0, teeth=0.0)[0], closed, err_msg="closed lips hide the teeth")


def test_gloss_lies_on_the_lower_lip_and_scales_the_shine() -> None:
    shine = _mouth(0.0, gloss=0.2)[1]
    assert np.unravel_index(shine.argmax(), shine.shape)[0] > 60
    np.testing.assert_allclose(shine, 2 * _mouth(0.0, gloss=0.1)[1], rtol=1e-5)


@pytest.mark.parametrize("hue", [-3.0, 0.0, 3.0])
def test_irises_darken_from_blue_to_brown(hue: float) -> None:
    colors = np.array([iris_color(level, hue) for level in np.linspace(-3, 2, 11)])
    assert 0.03 <= colors.min() <= colors.max() <= 1
    assert (np.diff(colors.mean(-1)) < 0).all()
    assert colors[0].argmax() == 2
    assert colors[-1].argmax() == 0
