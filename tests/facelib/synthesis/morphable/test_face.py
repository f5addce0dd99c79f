from dataclasses import replace

import numpy as np
import pytest

from facelib.synthesis.latents import FACTOR_SIZE, FACTORS, factor_slices, identity_latents
from facelib.synthesis.morphable.camera import Camera, make_camera
from facelib.synthesis.morphable.expression import ImageFactors, expression
from facelib.synthesis.morphable.face import FaceColors, Person
from facelib.synthesis.morphable.geometry import COLUMNS, HEAD_ROWS, shape_head
from facelib.synthesis.morphable.light import make_light
from facelib.synthesis.morphable.raster import Visible, rasterise
from facelib.synthesis.morphable.skin import paint_skin
from facelib.synthesis.morphable.traits import traits_of

SIZE = 96
SLICES = factor_slices(FACTORS)


@pytest.fixture(scope="module")
def man() -> Person:
    traits = replace(traits_of(identity_latents(0, np.array([6]))[0]), male=0.9, age=35.0)
    shape = shape_head(traits)
    return Person(traits, shape, paint_skin(traits, shape, 1))


def _row(**expression_latents: float) -> np.ndarray:
    row = np.zeros(FACTOR_SIZE, np.float32)
    for name, value in expression_latents.items():
        row[SLICES["expression"].start + int(name[1:])] = value
    return row


def _paint(person: Person, row: np.ndarray, x: float = SIZE / 2) -> tuple[np.ndarray, np.ndarray, Visible, Camera]:
    z = ImageFactors(row, SLICES)
    activations = expression(z, person.traits)
    camera = make_camera(np.zeros(3), 100.0, 4.0, np.array([x, SIZE / 2]))
    grid = person.shape.moved(activations)
    patches = ((slice(0, HEAD_ROWS), slice(0, COLUMNS)),)
    visible = rasterise(camera.view(camera.turn_head(grid)), SIZE, 3, patches)
    colors = FaceColors(person, z, activations, make_light(z.illumination), np.random.default_rng(0))
    return *colors.paint(visible, grid, camera, 1.0), visible, camera


def test_a_face_has_albedo_and_wet_places(man: Person) -> None:
    albedo, gloss, visible, camera = _paint(man, _row())
    assert albedo.shape == (SIZE, SIZE, 3)
    assert gloss.shape == (SIZE, SIZE)
    assert 0.004 <= albedo.min() <= albedo.max() <= 1
    assert (gloss[~visible.mask] == 0).all()
    places = man.shape.places
    eyes = camera.project(np.array([[s * places["eye_x"], places["eye_y"], places["eye_z"]] for s in (-1, 1)]))
    for x, y in eyes[:, :2].astype(int):
        assert gloss[y - 5 : y + 6, x - 5 : x + 6].max() > 0.05, "eyes glint"


def test_painting_is_deterministic_and_leaves_the_identity_unchanged(man: Person) -> None:
    before = man.skin.layers.copy()
    first, again = _paint(man, _row(e0=1.0, e1=1.0)), _paint(man, _row(e0=1.0, e1=1.0))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(man.skin.layers, before)


def test_a_longer_beard_darkens_the_face_and_the_tan_factor_scales_its_color(man: Person) -> None:
    def brightness(name: str, value: float) -> float:
        row = _row()
        row[SLICES["noise"].start + {"tan": 10, "beard": 11}[name]] = value
        assert ImageFactors(row, SLICES)[name] == value
        return float(_paint(man, row)[0].mean())

    assert brightness("beard", 2.0) < brightness("beard", -2.0)
    assert brightness("tan", -2.0) < brightness("tan", 0.0) < brightness("tan", 2.0)


def test_an_open_mouth_changes_the_mouth_more_than_the_forehead(man: Person) -> None:
    closed, opened = _paint(man, _row())[0], _paint(man, _row(e0=2.5))[0]
    difference = np.abs(opened - closed).mean(-1)
    mouth = int(SIZE / 2 - 4 * man.shape.places["mouth_y"])
    brow = int(SIZE / 2 - 4 * (man.shape.places["brow_y"] + 2))
    assert difference[mouth : mouth + 8, 40:56].mean() > 5 * difference[brow - 4 : brow + 4, 40:56].mean()


def test_a_face_outside_the_image_has_no_eyes_or_mouth_to_paint(man: Person) -> None:
    albedo, gloss, visible, _ = _paint(man, _row(), x=-500.0)
    assert not visible.mask.any()
    assert gloss.max() == 0
    assert albedo.shape == (SIZE, SIZE, 3)
