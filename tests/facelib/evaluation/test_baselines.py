import cv2
import numpy as np
import pytest

from facelib.evaluation import PixelEmbedding, WhitenedLBP, WhitenedPixels
from facelib.evaluation.baselines import _lbp_histograms


def pictures(count, seed=0):
    """Smooth random pictures: coarse noise scaled up."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def noisy(count, seed=0):
    """Pictures with gray values from 20 to 220 in every pixel."""
    return (pictures(count, seed) * 0.5 + np.random.default_rng(seed).integers(20, 90, (112, 112, 1))).astype(np.uint8)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_smallest_example():
    images = pictures(60)
    embeddings = WhitenedPixels.fit(images, components=16).embed(images)
    assert embeddings.shape == (60, 16)
    assert PixelEmbedding(size=14).embed(images).shape == (60, 196)
    assert WhitenedLBP.fit(images, components=16).embed(images).shape == (60, 16)


@pytest.mark.parametrize("model", [PixelEmbedding(size=14), WhitenedPixels.fit(pictures(60), components=16)])
def test_flip_rules(model):
    """Plain and mirrored embeddings, added or side by side."""
    images = pictures(5, seed=1)
    plain, mirrored = (model.embed(side, flip="none") for side in (images, images[:, :, ::-1]))
    np.testing.assert_allclose(model.embed(images, flip="concat"), np.hstack([plain, mirrored]), atol=1e-6)
    np.testing.assert_allclose(model.embed(images), plain + mirrored, atol=1e-5)


def test_fitted_faces_and_their_mirror_images_come_out_white():
    images = pictures(100)
    model = WhitenedPixels.fit(images, components=40)
    embeddings = np.concatenate([model.embed(side, flip=False) for side in (images, images[:, :, ::-1])])
    np.testing.assert_allclose(embeddings.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(embeddings.T, bias=True), np.eye(40), atol=1e-2)


def test_components_are_the_principal_ones():
    images = pictures(40)
    model = WhitenedPixels.fit(images, components=79, margin=0)
    pixels = np.concatenate([images, images[:, :, ::-1]])[:, ::4, ::4].reshape(80, -1).astype(np.float64)
    pixels -= pixels.mean(axis=1, keepdims=True)
    pixels /= pixels.std(axis=1, keepdims=True)
    pixels -= pixels.mean(axis=0)
    singular = np.linalg.svd(pixels, compute_uv=False)[:79]
    spread = 1 / np.linalg.norm(model.projection, axis=0)
    np.testing.assert_allclose(spread[:60], singular[:60] / np.sqrt(80), rtol=2e-2)


def slow_lbp(image, cells):
    """Histograms in float64 by the definition: every pixel, every point of its circle, every change around it."""
    gray = np.round(image @ np.array([0.299, 0.587, 0.114])).astype(np.float64)
    rows, columns = gray.shape[0] - 4, gray.shape[1] - 4
    uniform = sorted(p for p in range(256) if sum((p >> k ^ p >> (k + 1) % 8) & 1 for k in range(8)) <= 2)
    histograms = np.zeros((cells, cells, 59))
    for row, column in np.ndindex(rows, columns):
        y, x, pattern = row + 2, column + 2, 0
        for k in range(8):
            if k % 2 == 0:
                j, i = [(0, 2), (-2, 0), (0, -2), (2, 0)][k // 2]
                value = gray[y + j, x + i]
            else:
                j, i = [(-1, 1), (-1, -1), (1, -1), (1, 1)][k // 2]
                corners = gray[y + j, x + i], gray[y + 2 * j, x + i], gray[y + j, x + 2 * i], gray[y + 2 * j, x + 2 * i]
                value = np.dot(corners, [88, 62, 62, 44]) / 256
            pattern |= int(value >= gray[y, x]) << k
        bin_number = uniform.index(pattern) if pattern in uniform else 58
        histograms[row * cells // rows, column * cells // columns, bin_number] += 1
    return np.sqrt(histograms / (rows * columns)).reshape(-1)


def test_lbp_equals_a_slow_reference():
    rng = np.random.default_rng(3)
    images = cv2.GaussianBlur(rng.integers(0, 256, (33, 25, 3), np.uint8), (0, 0), 1)[None]
    images = np.concatenate([images, pictures(2)[:, 20:53, 30:55]])
    for cells in (1, 3):
        expected = np.stack([slow_lbp(image, cells) for image in images])
        np.testing.assert_allclose(_lbp_histograms(images, cells), expected, atol=1e-6)


def test_whitened_lbp_is_the_projection_in_float64():
    images = noisy(30)
    model = WhitenedLBP.fit(images, components=20)
    both = [_lbp_histograms(side, 7).astype(np.float64) for side in (images, images[:, :, ::-1])]
    centered = np.concatenate(both) - np.concatenate(both).mean(0)
    _, singular, axes = np.linalg.svd(centered, full_matrices=False)
    projected = centered @ axes[:20].T / singular[:20] * np.sqrt(60)
    made = model.embed(images, flip=False)
    # The sign of a component is free.
    np.testing.assert_allclose(np.abs(made), np.abs(projected[:30]), atol=5e-3)
    np.testing.assert_allclose(model.embed(images), made + model.embed(images[:, :, ::-1], flip=False), atol=1e-4)


def test_lbp_does_not_see_brightness_and_finds_the_pair():
    images = noisy(20)
    model = WhitenedLBP.fit(images)
    brighter = np.minimum(images.astype(int) + 30, 255).astype(np.uint8)
    a, b = model.embed(images), model.embed(brighter)
    similarities = unit(a) @ unit(b).T
    assert (similarities.argmax(1) == np.arange(20)).all()


def test_lbp_of_any_size_and_any_number():
    model = WhitenedLBP.fit(noisy(12), cells=4)
    assert model.embed(noisy(40)[:, :96, :96]).shape == (40, 23)
    with pytest.raises(ValueError, match="cells is 200; images of 112x112 pixels have no such grid"):
        WhitenedLBP.fit(noisy(4), cells=200)


def test_brightness_and_contrast_do_not_matter():
    images = pictures(5)
    dimmed = (images * 0.5 + 20).astype(np.uint8)
    a, b = PixelEmbedding().embed(images, flip=False), PixelEmbedding().embed(dimmed, flip=False)
    np.testing.assert_allclose(a, b, atol=0.05)


@pytest.mark.parametrize("model", [PixelEmbedding(), WhitenedPixels.fit(pictures(30))])
def test_flip_adds_the_mirror_image(model):
    images = pictures(5, seed=1)
    mirrored = images[:, :, ::-1]
    expected = model.embed(images, flip=False) + model.embed(mirrored, flip=False)
    np.testing.assert_allclose(model.embed(images), expected, atol=1e-4)
    np.testing.assert_allclose(model.embed(mirrored), expected, atol=1e-4)


def test_few_faces_give_as_many_components_as_they_support():
    images = pictures(6).repeat(2, axis=0)
    assert WhitenedPixels.fit(images).embed(images).shape == (12, 11)


def test_picture_of_one_color_is_finite():
    assert not PixelEmbedding().embed(np.full((1, 112, 112, 3), 7, np.uint8)).any()


@pytest.mark.parametrize(
    ("images", "components", "message"),
    [
        (pictures(4), 8, "components is 8; 4 images of 2352 features support 1 to 7"),
        (pictures(4).astype(np.float32), 4, "uint8"),
        (pictures(4)[0], 4, r"\[112, 112, 3\]"),
        (pictures(1).repeat(30, axis=0), 20, "fewer than 20 components"),
    ],
)
def test_refuses(images, components, message):
    with pytest.raises(ValueError, match=message):
        WhitenedPixels.fit(images, components=components)
