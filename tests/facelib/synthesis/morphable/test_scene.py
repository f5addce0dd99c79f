from collections.abc import Callable

import numpy as np
import pytest

from facelib.synthesis.latents import identity_latents
from facelib.synthesis.morphable.camera import make_camera
from facelib.synthesis.morphable.geometry import shape_head
from facelib.synthesis.morphable.raster import Visible
from facelib.synthesis.morphable.scene import (
    draw_glasses,
    draw_hat,
    draw_occluder,
    paint_background,
    paint_clothes,
)
from facelib.synthesis.morphable.traits import traits_of

SIZE = 96
SCALE = 2.0  # pixels per cm
HEAD = shape_head(traits_of(identity_latents(0, np.array([2]))[0]))
PROJECT = make_camera(np.zeros(3), 100.0, SCALE, np.array([SIZE / 2, SIZE / 2])).project
LIGHT = np.ones(3, np.float32)


def _visible(depth: float) -> Visible:
    """A surface at constant depth (cm) over the whole image."""
    flat = np.zeros((SIZE, SIZE), np.float32)
    return Visible(np.ones((SIZE, SIZE), bool), flat, flat, flat + np.float32(depth))


def _clothes(image: np.ndarray, rng: np.random.Generator) -> None:
    paint_clothes(image, rng, PROJECT, LIGHT, SCALE)


def _glasses(image: np.ndarray, rng: np.random.Generator, depth: float = 1000.0) -> None:
    draw_glasses(image, _visible(depth), HEAD.places, rng, np.zeros(4), PROJECT, SCALE, HEAD.places["eye_z"])


def _hat(image: np.ndarray, rng: np.random.Generator) -> None:
    draw_hat(image, _visible(1000.0), HEAD.skull, rng, PROJECT, LIGHT)


def _occluder(image: np.ndarray, rng: np.random.Generator) -> None:
    draw_occluder(image, rng, PROJECT, SCALE)


def _changed(draw: Callable[..., None], seed: int, **kwargs: float) -> np.ndarray:
    """Absolute change [S, S] of a gray image (0.5)."""
    image = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    draw(image, np.random.default_rng(seed), **kwargs)
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    return np.abs(image - 0.5).max(-1)


def test_backgrounds_are_images_in_range_and_all_different() -> None:
    images = np.stack([paint_background(np.random.default_rng(seed), SIZE) for seed in range(24)])
    assert images.shape == (24, SIZE, SIZE, 3)
    assert images.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 1
    assert images.mean((1, 2, 3)).std() > 0.05
    np.testing.assert_array_equal(images[3], paint_background(np.random.default_rng(3), SIZE))


@pytest.mark.parametrize("draw", [_clothes, _glasses, _hat, _occluder])
def test_drawing_depends_on_the_random_numbers_only(draw: Callable[..., None]) -> None:
    drawn = [_changed(draw, seed) for seed in range(8)]
    np.testing.assert_array_equal(drawn[5], _changed(draw, 5))
    assert max(change.max() for change in drawn) > 0.1
    assert len({change.tobytes() for change in drawn}) == 8


def test_each_object_is_where_it_is_worn() -> None:
    """y in the image of the center of what changed, as a mean over seeds: hat, glasses and clothes from the top."""
    rows = np.arange(SIZE)

    def height(draw: Callable[..., None]) -> float:
        total = np.sum([_changed(draw, seed) for seed in range(8)], 0)
        return float((total.sum(1) * rows).sum() / total.sum())

    hat, glasses, clothes = height(_hat), height(_glasses), height(_clothes)
    eyes = PROJECT(np.array([[0.0, HEAD.places["eye_y"], HEAD.places["eye_z"]]]))[0, 1]
    assert abs(glasses - eyes) < 1.5 * SCALE
    assert hat < glasses < clothes


def test_the_head_hides_the_temples_of_glasses() -> None:
    free, hidden = _changed(_glasses, 0), _changed(_glasses, 0, depth=0.0)
    assert (free > 0.01).sum() > (hidden > 0.01).sum()


def test_nothing_is_drawn_outside_the_image() -> None:
    image = np.full((SIZE, SIZE, 3), 0.5, np.float32)
    away = make_camera(np.zeros(3), 100.0, SCALE, np.array([-500.0, -500.0])).project
    draw_hat(image, _visible(1000.0), HEAD.skull, np.random.default_rng(0), away, LIGHT)
    assert (image == 0.5).all()
