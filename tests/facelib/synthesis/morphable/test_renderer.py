import cv2
import numpy as np
import pytest

from facelib.synthesis import build_generator
from facelib.synthesis.morphable import MorphableGenerator


@pytest.fixture(scope="module")
def generator() -> MorphableGenerator:
    made = build_generator("morphable", image_size=96)
    assert isinstance(made, MorphableGenerator)
    return made


def _latents(generator: MorphableGenerator, people: int, images: int, first: int = 0) -> tuple[np.ndarray, np.ndarray]:
    identities = np.repeat(np.arange(first, first + people), images)
    indices = np.tile(np.arange(images), people)
    return generator.identity_codes(3, identities), generator.image_factors(3, identities, indices)


def test_pictures_are_the_same_bytes_alone_in_a_batch_and_in_any_order(generator: MorphableGenerator) -> None:
    codes, factors = _latents(generator, people=5, images=3)
    batch = generator.render(codes, factors)
    assert batch.shape == (15, 96, 96, 3)
    assert batch.dtype == np.uint8
    alone = np.concatenate([generator.render(codes[row : row + 1], factors[row : row + 1]) for row in range(15)])
    np.testing.assert_array_equal(batch, alone)
    order = np.random.default_rng(0).permutation(15)
    np.testing.assert_array_equal(batch[order], generator.render(codes[order], factors[order]))


def test_pictures_do_not_depend_on_threads(generator: MorphableGenerator) -> None:
    codes, factors = _latents(generator, people=2, images=2, first=50)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = generator.render(codes, factors)
        cv2.setNumThreads(4)
        four = generator.render(codes, factors)
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(one, four)


def test_identity_changes_the_shape_more_than_expression_does(generator: MorphableGenerator) -> None:
    heads = generator.vertices(_latents(generator, people=24, images=1)[0])
    face = heads[:, 40:125, 34:94]
    between = face.std(0).mean()
    assert 0.1 < between < 1.0, "people differ by millimeters, not by decimeters"
    # Distances between two people's faces never vanish.
    flat = face.reshape(24, -1, 3)
    distances = [np.linalg.norm(flat[a] - flat[b], axis=-1).mean() for a in range(24) for b in range(a)]
    assert min(distances) > 0.2
    codes, factors = _latents(generator, people=1, images=24)
    still = np.zeros_like(factors)
    moved = still.copy()
    moved[:, :32] = factors[:, :32]
    points = generator.landmarks(codes, moved) / 96
    assert 0.0005 < points.std(0).mean() < 0.05


def test_pictures_of_a_person_are_more_alike_than_of_two(generator: MorphableGenerator) -> None:
    """With all factors at their mean but the noise, nearest neighbors in pixel space are mostly the same person."""
    codes, factors = _latents(generator, people=12, images=3)
    calm = np.zeros_like(factors)
    calm[:, -32:] = 0.5 * factors[:, -32:]
    crops = generator.render(codes, calm)[:, 24:72, 24:72].astype(np.float64).mean(-1)
    crops = (crops - crops.mean((1, 2), keepdims=True)) / crops.std((1, 2), keepdims=True)
    flat = crops.reshape(36, -1)
    similarity = flat @ flat.T - 1e9 * np.eye(36)
    same = np.arange(36) // 3 == similarity.argmax(1) // 3
    assert same.mean() > 0.8


def test_landmarks_lie_in_the_picture_in_their_places(generator: MorphableGenerator) -> None:
    codes, factors = _latents(generator, people=20, images=2)
    points = generator.landmarks(codes, factors)
    assert points.shape == (40, 5, 2)
    assert points.dtype == np.float32
    assert points.min() > 0
    assert points.max() < 96
    assert (points[:, 0, 0] < points[:, 1, 0]).all(), "the eye on the left of the picture comes first"
    assert (points[:, 3, 0] < points[:, 4, 0]).all()
    assert (points[:, :2, 1].mean(1) < points[:, 2, 1]).all()
    assert (points[:, 2, 1] < points[:, 3:, 1].mean(1)).all()


def test_pose_moves_landmarks_as_expected(generator: MorphableGenerator) -> None:
    codes, factors = _latents(generator, people=1, images=5)
    factors = np.zeros_like(factors)
    start = sum(size for name, size in list(generator.factors.items())[: list(generator.factors).index("rotation")])
    factors[:, start] = [-1.5, -0.7, 0, 0.7, 1.5]
    points = generator.landmarks(codes, factors)
    yaw = generator.yaw_degrees(factors)
    assert (np.diff(yaw) > 0).all()
    assert yaw[2] == 0
    nose = points[:, 2, 0] - points[:, :2, 0].mean(1)
    assert (np.diff(nose) > 0).all(), "positive yaw turns the nose to the picture's right"
    factors[:, start] = 0
    factors[:, start + 1] = [-1.5, -0.7, 0, 0.7, 1.5]
    points = generator.landmarks(codes, factors)
    drop = points[:, 2, 1] - points[:, :2, 1].mean(1)
    assert (np.diff(drop) > 0).all(), "positive pitch looks down"
    factors[:, start + 1] = 0
    factors[:, start + 2] = [-1.5, -0.7, 0, 0.7, 1.5]
    eyes = np.diff(generator.landmarks(codes, factors)[:, :2], axis=1)[:, 0]
    angle = np.arctan2(eyes[:, 1], eyes[:, 0])
    assert (np.diff(angle) < 0).all(), "positive roll turns anticlockwise in the picture"


def test_pose_bounds_hold() -> None:
    generator = build_generator("morphable", image_size=64, max_yaw_degrees=20.0)
    assert isinstance(generator, MorphableGenerator)
    factors = generator.image_factors(0, np.arange(2000), np.zeros(2000, np.int64))
    assert np.abs(generator.yaw_degrees(factors)).max() < 20


@pytest.mark.parametrize("size", [64, 160, 512])
def test_sizes(size: int) -> None:
    generator = build_generator("morphable", image_size=size)
    codes, factors = (
        generator.identity_codes(0, np.array([1])),
        generator.image_factors(0, np.array([1]), np.array([0])),
    )
    image = generator.render(codes, factors)[0]
    assert image.shape == (size, size, 3)
    assert image.std() > 15


def test_wrong_shapes_are_refused(generator: MorphableGenerator) -> None:
    codes, factors = _latents(generator, people=1, images=2)
    with pytest.raises(ValueError, match=r"codes must be \[N, 128\], got shape \(2, 127\)"):
        generator.render(codes[:, 1:], factors)
    with pytest.raises(ValueError, match=r"factors must be \[2, 83\]"):
        generator.render(codes, factors[:1])
