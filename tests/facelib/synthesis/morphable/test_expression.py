import numpy as np
import pytest

from facelib.synthesis.latents import FACTOR_SIZE, FACTORS, factor_slices, identity_latents
from facelib.synthesis.morphable.expression import ImageFactors, expression, eye_openness, landmarks_3d
from facelib.synthesis.morphable.geometry import shape_head
from facelib.synthesis.morphable.motion import EXPRESSIONS
from facelib.synthesis.morphable.traits import traits_of

TRAITS = traits_of(identity_latents(0, np.array([2]))[0])
SLICES = factor_slices(FACTORS)


def _factors(**latents: float) -> ImageFactors:
    """Zero factors, except expression latents given as e0, e1, ..."""
    row = np.zeros(FACTOR_SIZE, np.float32)
    for name, value in latents.items():
        row[SLICES["expression"].start + int(name[1:])] = value
    return ImageFactors(row, SLICES)


def _active(z: ImageFactors) -> dict[str, float]:
    return dict(zip(EXPRESSIONS, expression(z, TRAITS), strict=True))


def test_latents_become_named_activations() -> None:
    neutral, laughing = _active(_factors()), _active(_factors(e0=2.0, e1=2.0))
    assert laughing["jaw"] > neutral["jaw"] + 0.5
    assert laughing["smile"] > neutral["smile"]
    assert laughing["squint"] > neutral["squint"]
    assert neutral["frown"] == neutral["puff"] == 0


def test_activations_stay_in_range_for_extreme_latents() -> None:
    rows = 10 * np.random.default_rng(0).standard_normal((200, FACTOR_SIZE)).astype(np.float32)
    active = np.array([expression(ImageFactors(row, SLICES), TRAITS) for row in rows])
    assert active.shape == (200, len(EXPRESSIONS))
    assert np.abs(active).max() < 2.6
    assert active[:, EXPRESSIONS.index("jaw")].max() <= 2.0
    assert active[:, EXPRESSIONS.index("smile")].max() <= 1.6
    assert _active(_factors(e3=9.0)) == _active(_factors(e3=3.0)), "latents are clipped"
    signed = {"brow_outer", "mouth_side", "jaw_side", "weight"}
    one_sided = [k for k, name in enumerate(EXPRESSIONS) if name not in signed]
    assert active[:, one_sided].min() >= 0


def test_a_blink_closes_the_eyes_and_smiling_narrows_them() -> None:
    def openness(**latents: float) -> float:
        z = _factors(**latents)
        return eye_openness(z, TRAITS, expression(z, TRAITS))

    assert openness(e7=2.5) == 0.05
    assert 0.3 <= openness(e13=2.5) < openness() <= 1.4
    assert openness(e4=2.5) > openness()


def test_noise_is_accessed_by_name() -> None:
    row = np.zeros(FACTOR_SIZE, np.float32)
    row[SLICES["noise"]] = np.arange(SLICES["noise"].stop - SLICES["noise"].start)
    z = ImageFactors(row, SLICES)
    assert z["hair_0"] == 0
    assert z["detail"] == SLICES["noise"].stop - SLICES["noise"].start - 1
    with pytest.raises(ValueError, match="not in tuple"):
        z["unknown"]


def test_variation_scales_all_photo_settings_but_focus_grain_and_jpeg() -> None:
    row = np.ones(FACTOR_SIZE, np.float32)
    photo = ImageFactors(row, SLICES).photo(0.5)
    assert {name for name, value in photo.items() if value == 1.0} == {"focus", "grain", "jpeg"}
    assert set(photo.values()) == {0.5, 1.0}


def test_landmarks_follow_the_expression() -> None:
    head = shape_head(TRAITS)
    neutral = np.zeros(len(EXPRESSIONS))
    smile = neutral.copy()
    smile[EXPRESSIONS.index("smile")] = 1.5
    rest, moved = landmarks_3d(head, neutral), landmarks_3d(head, smile)
    assert rest.shape == (5, 3)
    np.testing.assert_allclose(rest[[0, 3], 0], -rest[[1, 4], 0], atol=1e-5)
    assert rest[2, 2] == rest[:, 2].max(), "the nose tip is the most forward"
    assert (moved[3:, 1] > rest[3:, 1] + 0.2).all()
    np.testing.assert_allclose(moved[2], rest[2], atol=0.1)
