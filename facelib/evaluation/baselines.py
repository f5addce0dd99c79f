"""Baselines that keep evaluations honest: what face verification achieves without learning anything about identity.

A trained model must beat them all. `PixelEmbedding` is the gray picture itself; `WhitenedPixels` is the picture in the
principal components of given faces, each scaled to unit variance (eigenfaces, Turk & Pentland 1991, with
whitening), which needs no labels either; `WhitenedLBP` does the same with histograms of local binary patterns (Ahonen,
Hadid & Pietikäinen 2006), the classic without learning. Sizes, crop and color of the whitened baselines were chosen for
the best AUC on real pairs. All treat the mirror image by the rules that trained models are evaluated with.

Shape legend: N images, D embedding size, F features before the projection.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from facelib.utils.flip import FlipRule, flip_rule, join_flipped

# The circle of radius 2: four pixels on the axes, and four points between pixels, read bilinearly; weights in 256ths,
# so that all comparisons are exact.
_RADIUS = 2
_AXES = ((0, 2), (-2, 0), (0, -2), (2, 0))
_DIAGONALS = ((-1, 1), (-1, -1), (1, -1), (1, 1))
_NEAR, _BETWEEN, _FAR = 88, 62, 44
_BINS = 59


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
        return _joined(sides, rule)


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
        pixels = np.concatenate([_pixels(side, size, margin, gray=False) for side in (images, images[:, :, ::-1])])
        return cls(*_whitening(pixels, components, 256), size, margin)

    def embed(self, images: Any, flip: FlipRule | bool = "sum") -> NDArray[np.float32]:
        """Embeddings [N, D] of RGB uint8 images [N, 112, 112, 3], [N, 2D] with `concat`; see `facelib.utils.flip`."""
        rule = flip_rule(flip)
        pixels = [_pixels(side, self.size, self.margin, gray=False) for side in _sides(images, rule)]
        sides = [np.asarray((side - self.mean) @ self.projection, dtype=np.float32) for side in pixels]
        return _joined(sides, rule)


class WhitenedLBP:
    """Histograms of uniform local binary patterns in a grid of cells, projected as `WhitenedPixels` projects pixels.

    A pattern is which of 8 pixels on a circle around a pixel are at least as bright as it is. The 58 patterns with at
    most two changes around the circle have a bin each, the others share one. Of the counts the square root is taken
    (Hellinger distance). Make one with `WhitenedLBP.fit`.

    Attributes:
        mean: mean of the fitted histograms, float32 [F].
        projection: float32 [F, D].
        cells: cells a side.
    """

    def __init__(self, mean: NDArray[np.float32], projection: NDArray[np.float32], cells: int) -> None:
        self.mean = mean
        self.projection = projection
        self.cells = cells

    @classmethod
    def fit(cls, images: Any, components: int | None = None, cells: int = 7) -> WhitenedLBP:
        """Fit on faces and their mirror images, without labels. 8,000 faces take about ten seconds on one core.

        Args:
            images: RGB uint8 faces [N, H, W, 3].
            components: embedding size D, at most 2 N - 1 and F; left out, 400 or as many as the images support.
            cells: cells a side; F is 59 cells^2.

        Raises:
            ValueError: images of another shape or type, too many components for the images given.
        """
        images = _checked(images)
        histograms = np.concatenate([_lbp_histograms(side, cells) for side in (images, images[:, :, ::-1])])
        return cls(*_whitening(histograms, components, 400), cells)

    def embed(self, images: Any, flip: FlipRule | bool = "sum") -> NDArray[np.float32]:
        """Embeddings [N, D] of RGB uint8 images [N, H, W, 3], [N, 2D] with `concat`; see `facelib.utils.flip`."""
        rule = flip_rule(flip)
        histograms = [_lbp_histograms(side, self.cells) for side in _sides(images, rule)]
        sides = [np.asarray((side - self.mean) @ self.projection, dtype=np.float32) for side in histograms]
        return _joined(sides, rule)


def _whitening(
    features: NDArray[np.float32], components: int | None, default: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean [F] of features [2 N, F] and the projection [F, D] on components of unit variance. Overwrites the features.

    Args:
        components: D; None takes `default`, or as many as the features support.
    """
    limit = min(len(features) - 1, features.shape[1])
    count = min(default, limit) if components is None else components
    if not 1 <= count <= limit:
        raise ValueError(
            f"components is {count}; {len(features) // 2} images of {features.shape[1]} features support 1 to {limit}"
        )
    mean: NDArray[np.float32] = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    features -= mean
    variances, directions = _principal_components(features, count)
    # float32 features carry no information below this share of the largest variance.
    supported = int(np.sum(variances > 1e-6 * variances[0]))
    if supported == 0 or (components is not None and supported < count):
        raise ValueError(f"the images span fewer than {count} components; give more different faces")
    return mean, (directions[:, :supported] / np.sqrt(variances[:supported])).astype(np.float32)


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


def _joined(sides: list[NDArray[np.float32]], rule: FlipRule) -> NDArray[np.float32]:
    """The embeddings of `_sides` as one."""
    return sides[0] if rule == "none" else join_flipped(sides[0], sides[1], rule)


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


def _uniform_bins() -> NDArray[np.uint8]:
    """The bin of each of the 256 patterns: 0 to 57 for those with at most two changes, 58 for all others."""
    patterns = np.arange(256)
    changes = np.bitwise_count((patterns ^ (patterns >> 1 | (patterns & 1) << 7)).astype(np.uint8))
    bins = np.full(256, _BINS - 1, np.uint8)
    bins[changes <= 2] = np.arange(_BINS - 1)
    return bins


def _lbp_histograms(images: Any, cells: int, batch: int = 32) -> NDArray[np.float32]:
    """Square roots of the shares of the 59 bins in each cell, float32 [N, 59 cells^2]."""
    images = _checked(images)
    rows, columns = (side - 2 * _RADIUS for side in images.shape[1:3])
    if not 1 <= _positive("cells", cells) <= min(rows, columns):
        raise ValueError(f"cells is {cells}; images of {images.shape[1]}x{images.shape[2]} pixels have no such grid")
    bins = _uniform_bins()
    cell = np.arange(rows)[:, None] * cells // rows * cells + np.arange(columns) * cells // columns
    start = cell * _BINS + np.arange(batch)[:, None, None] * cells**2 * _BINS
    histograms = np.empty((len(images), cells**2 * _BINS), np.float32)
    for first in range(0, len(images), batch):
        gray = np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images[first : first + batch]])
        places = start[: len(gray)] + bins[_patterns(gray)]
        counts = np.bincount(places.ravel(), minlength=histograms[0].size * len(gray))
        histograms[first : first + batch] = np.sqrt(counts.reshape(len(gray), -1) / (rows * columns))
    return histograms


def _patterns(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Local binary patterns [N, H - 4, W - 4] of gray images [N, H, W], counterclockwise from the right."""
    height, width = gray.shape[1:]
    wide = gray.astype(np.uint16)

    def moved(image: NDArray[Any], y: int, x: int) -> NDArray[Any]:
        return image[:, _RADIUS + y : height - _RADIUS + y, _RADIUS + x : width - _RADIUS + x]

    center, center_256 = moved(gray, 0, 0), moved(wide << 8, 0, 0)
    patterns = np.zeros(center.shape, np.uint8)
    near, between, far = wide * np.uint16(_NEAR), wide * np.uint16(_BETWEEN), wide * np.uint16(_FAR)
    for number, ((y, x), (j, i)) in enumerate(zip(_AXES, _DIAGONALS)):
        patterns |= (moved(gray, y, x) >= center).view(np.uint8) << np.uint8(2 * number)
        value = moved(near, j, i) + moved(far, 2 * j, 2 * i)
        value += moved(between, 2 * j, i)
        value += moved(between, j, 2 * i)
        patterns |= (value >= center_256).view(np.uint8) << np.uint8(2 * number + 1)
    return patterns
