"""Baselines that keep evaluations honest: what face verification achieves without learning anything about identity.

A trained model must beat both. `PixelEmbedding` is the gray picture itself; `WhitenedPixels` is the picture in the
principal components of given faces, each scaled to unit variance (eigenfaces, Turk & Pentland 1991, with
whitening), which needs no labels either. Size, crop and color of the whitened baseline were chosen for the best
AUC on real pairs. Both treat the mirror image by the rules that trained models are evaluated with.

Shape legend: N images, D embedding size.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facelib.utils.flip import FlipRule, flip_rule, join_flipped


class PixelEmbedding:
    """Gray pixels of the downscaled picture, mean 0 and variance 1 within each picture.

    Args:
        size: side of the downscaled picture in pixels; D is its square.
    """

    def __init__(self, size: int = 56) -> None:
        self.size = _positive("size", size)

    def embed(self, images: Any, flip: FlipRule | bool = "sum") -> NDArray[np.float32]:
        """Embeddings [N, D] of RGB uint8 images [N, H, W, 3], [N, 2D] with `concat`; see `facelib.utils.flip`."""
        rule = flip_rule(flip)
        sides = [_pixels(side, self.size, margin=0, gray=True) for side in _sides(images, rule)]
        return sides[0] if rule == "none" else join_flipped(*sides, rule)


class WhitenedPixels:
    """Pixels projected on the principal components of fitted faces and divided by their standard deviations.

    Make one with `WhitenedPixels.fit`.

    Attributes:
        mean: mean of the fitted pixels, float32 [features].
        projection: float32 [features, D].
        size, margin: side of the downscaled picture and pixels cut from each side of a 112x112 face before.
    """

    def __init__(self, mean: NDArray[np.float32], projection: NDArray[np.float32], size: int, margin: int) -> None:
        self.mean = mean
        self.projection = projection
        self.size = size
        self.margin = margin

    @classmethod
    def fit(cls, images: Any, components: int | None = None, size: int = 28, margin: int = 18) -> WhitenedPixels:
        """Fit on faces and their mirror images, without labels. 20,000 faces take seconds on one core.

        Args:
            images: RGB uint8 faces [N, 112, 112, 3].
            components: embedding size D, at most 2 N - 1 and 3 size^2; left out, 256 or as many as the images support.
            size: side of the downscaled color picture in pixels.
            margin: pixels cut from each side before downscaling: the border shows hair and background.

        Raises:
            ValueError: images of another shape or type, too many components for the images given.
        """
        images = _checked(images)
        limit = min(2 * len(images) - 1, 3 * size**2)
        wanted, components = components, min(256, limit) if components is None else components
        if not 1 <= components <= limit:
            raise ValueError(f"components is {components}; {len(images)} images of size {size} support 1 to {limit}")
        pixels = np.concatenate([_pixels(side, size, margin, gray=False) for side in (images, images[:, :, ::-1])])
        mean: NDArray[np.float32] = pixels.mean(axis=0, dtype=np.float64).astype(np.float32)
        pixels -= mean
        variances, directions = _principal_components(pixels, components)
        # float32 pixels carry no information below this share of the largest variance.
        supported = int(np.sum(variances > 1e-6 * variances[0]))
        if supported == 0 or (wanted is not None and supported < components):
            raise ValueError(f"the images span fewer than {components} components; give more different faces")
        projection: NDArray[np.float32] = (directions[:, :supported] / np.sqrt(variances[:supported])).astype("f4")
        return cls(mean, projection, size, margin)

    def embed(self, images: Any, flip: FlipRule | bool = "sum") -> NDArray[np.float32]:
        """Embeddings [N, D] of RGB uint8 images [N, 112, 112, 3], [N, 2D] with `concat`; see `facelib.utils.flip`."""
        rule = flip_rule(flip)
        pixels = [_pixels(side, self.size, self.margin, gray=False) for side in _sides(images, rule)]
        sides = [np.asarray((side - self.mean) @ self.projection, dtype=np.float32) for side in pixels]
        return sides[0] if rule == "none" else join_flipped(*sides, rule)


def _principal_components(centered: NDArray[np.float32], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Largest variances, descending, and their directions [features, count] of centered rows [N, features]."""
    from scipy.linalg import eigh

    samples, features = centered.shape
    # Of the two matrices with the same spectrum the smaller one is decomposed.
    small = centered.T @ centered if features <= samples else centered @ centered.T
    size = len(small)
    variances, vectors = eigh(small.astype(np.float64) / samples, subset_by_index=[size - count, size - 1])
    variances, vectors = np.maximum(variances[::-1], 0), vectors[:, ::-1]
    if features <= samples:
        return variances, vectors
    return variances, (centered.T @ vectors) / np.sqrt(np.maximum(variances * samples, np.finfo(np.float64).tiny))


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value


def _checked(images: Any) -> NDArray[np.uint8]:
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise ValueError(f"images must be RGB uint8 [N, H, W, 3], got {array.dtype} {list(array.shape)}")
    return array


def _sides(images: Any, rule: FlipRule) -> list[NDArray[np.uint8]]:
    """The images, and their mirror images unless the rule is `none`."""
    images = _checked(images)
    return [images] if rule == "none" else [images, images[:, :, ::-1]]


def _pixels(images: Any, size: int, margin: int, gray: bool) -> NDArray[np.float32]:
    """Pixels [N, size * size * channels] of downscaled images, standardized within each image."""
    images = _checked(images)
    if 2 * margin >= min(images.shape[1:3]):
        raise ValueError(
            f"margin is {margin}; images of {images.shape[1]}x{images.shape[2]} pixels have nothing inside it"
        )
    pixels = np.empty((len(images), size * size * (1 if gray else 3)), dtype=np.float32)
    for row, image in zip(pixels, images, strict=True):
        if margin:
            image = image[margin:-margin, margin:-margin]
        if gray:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        row[:] = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA).ravel()
    pixels -= pixels.mean(axis=1, keepdims=True)
    # A picture of one color has no variance; it becomes zero.
    pixels /= np.maximum(pixels.std(axis=1, keepdims=True), 1e-3)
    return pixels
