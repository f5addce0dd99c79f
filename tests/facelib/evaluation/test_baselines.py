import numpy as np
import pytest

from facelib.evaluation import PixelEmbedding, WhitenedPixels


def pictures(count, seed=0):
    """Smooth random pictures: coarse noise scaled up."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def test_smallest_example():
    images = pictures(60)
    embeddings = WhitenedPixels.fit(images, components=16).embed(images)
    assert embeddings.shape == (60, 16)
    assert PixelEmbedding(size=14).embed(images).shape == (60, 196)


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
        (pictures(4), 8, "components is 8; 4 images of size 28 support 1 to 7"),
        (pictures(4).astype(np.float32), 4, "uint8"),
        (pictures(4)[0], 4, r"\[112, 112, 3\]"),
        (pictures(1).repeat(30, axis=0), 20, "fewer than 20 components"),
    ],
)
def test_refuses(images, components, message):
    with pytest.raises(ValueError, match=message):
        WhitenedPixels.fit(images, components=components)
