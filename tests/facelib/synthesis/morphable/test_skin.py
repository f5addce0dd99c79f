from dataclasses import replace

import numpy as np
import pytest

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.geometry import COLUMNS, ROWS, HeadShape, shape_head
from facelib.synthesis.morphable.skin import Skin, hair_color, lip_color, paint_skin, skin_tone
from facelib.synthesis.morphable.traits import Traits, traits_of


@pytest.fixture(scope="module")
def man() -> tuple[Traits, HeadShape]:
    """An adult man, so that a beard can grow."""
    traits = replace(traits_of(identity_latents(0, np.array([6]))[0]), male=0.9, age=35.0)
    return traits, shape_head(traits)


@pytest.fixture(scope="module")
def skin(man: tuple[Traits, HeadShape]) -> Skin:
    return paint_skin(*man, scale=1)


def test_skin_is_an_albedo_texture_with_a_beard_layer(skin: Skin) -> None:
    assert skin.layers.shape == (ROWS, COLUMNS, 4)
    assert skin.layers.dtype == np.float32
    assert 0 <= skin.layers.min() <= skin.layers.max() <= 1
    assert skin.layers[..., 3].max() > 0.2, "a beard can grow"
    median = np.median(skin.layers[:146, :, :3], axis=(0, 1))
    np.testing.assert_allclose(median, skin.tone, atol=0.1)


def test_the_same_identity_has_the_same_skin(man: tuple[Traits, HeadShape], skin: Skin) -> None:
    np.testing.assert_array_equal(paint_skin(*man, scale=1).layers, skin.layers)
    traits, shape = man
    other = paint_skin(replace(traits, key=traits.key + 1), shape, scale=1)
    assert np.abs(other.layers - skin.layers).max() > 0.05, "details depend on the identity's key"


def test_scale_is_texels_per_vertex(man: tuple[Traits, HeadShape]) -> None:
    assert paint_skin(*man, scale=2).layers.shape == (2 * ROWS, 2 * COLUMNS, 4)


@pytest.mark.parametrize("changes", [{"male": -0.9}, {"age": 12.0}])
def test_women_and_children_have_no_beard(man: tuple[Traits, HeadShape], changes: dict[str, float]) -> None:
    traits, shape = man
    assert paint_skin(replace(traits, **changes), shape, scale=1).layers[..., 3].max() == 0


def test_colors_follow_pigment(man: tuple[Traits, HeadShape]) -> None:
    tones = np.array([skin_tone(level, 0.0).mean() for level in np.linspace(-3, 3, 9)])
    assert (np.diff(tones) < 0).all()
    assert hair_color(man[0], shift=1.5).mean() > hair_color(man[0], shift=-1.5).mean()


def test_lips_are_redder_than_the_skin(man: tuple[Traits, HeadShape]) -> None:
    for level in (-2.0, 0.0, 2.0):
        tone = skin_tone(level, 0.0)
        lips = lip_color(man[0], tone)
        assert lips[0] / lips[1] > tone[0] / tone[1]
