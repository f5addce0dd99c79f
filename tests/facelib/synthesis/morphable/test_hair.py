import numpy as np

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.geometry import shape_head
from facelib.synthesis.morphable.hair import make_hair, wears
from facelib.synthesis.morphable.traits import traits_of


def test_hair_changes_from_picture_to_picture_but_not_in_one() -> None:
    traits = traits_of(identity_latents(0, np.array([6]))[0])
    skull = shape_head(traits).skull
    styles = [make_hair(traits, skull, np.full(6, z), np.random.default_rng(1)) for z in (-0.4, 0.8, 0.8)]
    first, second, again = styles
    assert first is not None
    assert second is not None
    assert again is not None
    assert first.grid.shape[0] == 3
    assert np.abs(first.grid - second.grid).max() > 0.5
    np.testing.assert_array_equal(second.grid, again.grid)
    assert 0 <= first.cover.min() <= first.cover.max() <= 1


def test_hair_lies_outside_the_skull() -> None:
    traits = traits_of(identity_latents(0, np.array([6]))[0])
    skull = shape_head(traits).skull
    hair = make_hair(traits, skull, np.zeros(6), np.random.default_rng(1))
    assert hair is not None
    assert hair.grid[1].max() > skull[..., 1].max()


def test_habits_are_steady_but_not_absolute() -> None:
    today = np.random.default_rng(0).standard_normal(500)
    often = np.mean([wears(2.0, z) for z in today])
    rarely = np.mean([wears(0.0, z) for z in today])
    assert 0.8 < often < 1
    assert 0 < rarely < 0.2
