"""Five-point alignment: templates, the least-squares similarity transform (Umeyama, PAMI 1991), and the warp.

A similarity (rotation, one scale, translation; no reflection, no shear) moves the five landmarks as near as it can to a
template of fixed positions in a 112x112 crop. Pixel (x, y) is the center of column x, row y, as in OpenCV.

Shapes: N faces; landmarks [5, 2] are (x, y) in the order eyes, nose, mouth corners, the left one in the image first;
a transform [2, 3] is the matrix A of `crop point = A @ (x, y, 1)`.
"""

from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

CROP_SIZE = 112
"""Side of the square crop, in pixels, that every template is written for."""

FloatArray = NDArray[np.float64]


_ARCFACE = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)],
    dtype=np.float64,
)

TEMPLATES: MappingProxyType[str, FloatArray] = MappingProxyType(
    {
        "arcface": _ARCFACE,
        # Made for crops 96 wide; on a 112 canvas the face sits 8 pixels left of the middle.
        "arcface-96": _ARCFACE - (8.0, 0.0),
        "arcface-padded": (_ARCFACE + CROP_SIZE * 0.25) / 1.5,
    }
)
"""Landmark positions [5, 2] in a 112x112 crop by name.

`arcface-padded` shows a quarter of the crop more on each side, as K-FACE is aligned.
"""
for _template in TEMPLATES.values():
    _template.setflags(write=False)


def similarity_transform(landmarks: ArrayLike, template: "str | ArrayLike" = "arcface") -> FloatArray:
    """Return the similarity that brings landmarks nearest to a template in least squares.

    Args:
        landmarks: [5, 2] or [N, 5, 2], in source pixels.
        template: a name in `TEMPLATES` or positions [5, 2] in crop pixels.

    Returns:
        [2, 3] or [N, 2, 3] float64, never a reflection.

    Raises:
        ValueError: wrong shapes, or landmarks no similarity can be fitted to: NaN or infinite, all in one point, or
            (for instance flipped ones) without any rotation that fits better than another.
    """
    source = np.asarray(landmarks, dtype=np.float64)
    if source.ndim not in (2, 3) or source.shape[-2:] != (5, 2):
        raise ValueError(f"landmarks have shape {source.shape}: give [5, 2] or [N, 5, 2] (x, y) positions")
    matrices, fitted = fit_similarity(source.reshape(-1, 5, 2), resolve_template(template))
    if not fitted.all():
        bad = np.flatnonzero(~fitted)
        which = "" if source.ndim == 2 else f" of faces {bad[:10].tolist()}"
        raise ValueError(
            f"degenerate landmarks{which}, e.g. {source.reshape(-1, 5, 2)[bad[0]].tolist()}: no similarity transform "
            "can be fitted to points that are not finite, coincide or are mirrored; leave these faces out"
        )
    return matrices.reshape(*source.shape[:-2], 2, 3)


def align_face(
    image: NDArray[np.generic],
    landmarks: ArrayLike,
    template: "str | ArrayLike" = "arcface",
    size: int = CROP_SIZE,
) -> NDArray[np.generic]:
    """Warp a face onto a template: bilinear, black outside the image, color order untouched.

    Args:
        image: [H, W, 3] (or [H, W]) uint8 or float32.
        landmarks: [5, 2] in pixels of `image`.
        template: a name in `TEMPLATES` or positions [5, 2] in a 112x112 crop.
        size: side of the crop in pixels; the template is scaled with it.

    Returns:
        [size, size, 3] of the image's dtype.

    Raises:
        ValueError: see `similarity_transform`; or an image or size that cannot be used.
    """
    if image.ndim not in (2, 3) or 0 in image.shape or image.dtype not in (np.uint8, np.float32):
        raise ValueError(f"image has shape {image.shape} and type {image.dtype}: give [H, W, 3] uint8 or float32")
    matrix = similarity_transform(landmarks, scaled_template(template, size))
    return warp(image, matrix, size)


def resolve_template(template: "str | ArrayLike") -> FloatArray:
    """Return positions [5, 2] of a template given by name or as an array; ValueError for an unknown name or shape."""
    if isinstance(template, str):
        if template not in TEMPLATES:
            raise ValueError(f"template {template!r} does not exist: choose one of {sorted(TEMPLATES)} or give [5, 2]")
        return TEMPLATES[template]
    positions = np.asarray(template, dtype=np.float64)
    if positions.shape != (5, 2) or not np.isfinite(positions).all():
        raise ValueError(f"template has shape {positions.shape}: give five finite (x, y) positions, [5, 2]")
    return positions


def scaled_template(template: "str | ArrayLike", size: int) -> FloatArray:
    """Return the template's positions [5, 2] in a crop of `size` pixels instead of 112."""
    if size < 8:
        raise ValueError(f"size is {size}: give the crop's side in pixels, 8 or more (112 is usual)")
    return resolve_template(template) * (size / CROP_SIZE)


def fit_similarity(landmarks: FloatArray, template: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Fit all faces at once: landmarks [N, 5, 2] -> (matrices [N, 2, 3], fitted [N]); unfitted rows are zero.

    With points as complex numbers and both sets centered, a similarity is one complex factor z, and the least-squares z
    is <landmarks, template> / |landmarks|^2: proper rotations only, so no reflection has to be excluded.
    """
    finite = np.isfinite(landmarks.reshape(-1, 10)).min(axis=1, initial=True)
    points = np.where(finite[:, None, None], landmarks, 0.0)
    center = points.mean(axis=1)
    template_center = template.mean(axis=0)
    source = (points - center[:, None]) @ np.array([1, 1j])  # [N, 5]
    target = (template - template_center) @ np.array([1, 1j])  # [5]
    spread = (np.abs(source) ** 2).sum(axis=1)
    overlap = (source.conj() * target).sum(axis=1)

    # Spread is judged against the size of the coordinates: their rounding is all that is left when points coincide.
    magnitude = 1.0 + np.abs(points).max(axis=(1, 2), initial=0.0)
    spread_enough = np.sqrt(spread) > 1e-6 * magnitude
    turned_enough = np.abs(overlap) > 1e-6 * np.sqrt(spread * (np.abs(target) ** 2).sum())
    fitted: NDArray[np.bool_] = finite & spread_enough & turned_enough

    factor = np.where(fitted, overlap / np.where(fitted, spread, 1.0), 0.0)
    matrices = np.empty((len(points), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = factor.real
    matrices[:, 1, 0] = factor.imag
    matrices[:, 0, 1] = -factor.imag
    matrices[:, :, 2] = template_center - (matrices[:, :, :2] @ center[:, :, None])[:, :, 0]
    matrices[~fitted] = 0.0
    return matrices, fitted


def warp(image: NDArray[np.generic], matrix: FloatArray, size: int) -> NDArray[np.generic]:
    """Resample `image` by a transform [2, 3] into a [size, size, ...] crop: bilinear, black border."""
    return cv2.warpAffine(
        np.ascontiguousarray(image),
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )
