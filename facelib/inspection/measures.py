"""Numbers that describe one aligned face: head pose, light, expression, sharpness.

Pose and mouth come from the five landmarks in the picture that the face was cut from, light and sharpness from the
aligned crop. They are estimates that make sets comparable with each other, not instruments.

Shapes: N faces, S side of a crop; landmarks [N, 5, 2] (x, y): eyes, nose, mouth corners, left one in the picture first.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facelib.sources.importing import sharpness

Floats = NDArray[np.float64]
# Name -> what it is, with its unit.
MEASURES: dict[str, str] = {
    "yaw": "degrees, positive: nose to the picture's right",
    "pitch": "degrees, positive: nose up",
    "roll": "degrees, positive: clockwise",
    "mouth_width": "distance of the mouth corners in eye distances",
    "mouth_drop": "nose to mouth in nose-to-eye distances",
    "brightness": "mean gray level, 0 to 255",
    "contrast": "standard deviation of gray levels",
    "side_light": "right half minus left half in means of both, -2 to 2",
    "warmth": "mean of red minus blue, gray levels",
    "sharpness": "variance of the Laplacian of gray levels",
}
# An average face: x to the right, y down, z away from the viewer; eye distance 62, the nose tip is the origin.
_MODEL = np.array([[-31, -33, 27], [31, -33, 27], [0, 0, 0], [-24, 31, 20], [24, 31, 20]], np.float64)


def measure_faces(images: NDArray[np.uint8], landmarks: ArrayLike | None = None) -> dict[str, Floats]:
    """Every measure of every face: name in `MEASURES` -> float64 [N].

    Args:
        images: RGB crops uint8 [N, S, S, 3].
        landmarks: [N, 5, 2]; None leaves out what needs them.

    Raises:
        ValueError: wrong shapes.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise ValueError(f"images must be uint8 [N, S, S, 3], got {images.dtype} {list(images.shape)}")
    found: dict[str, Floats] = {}
    if landmarks is not None:
        points = _checked(landmarks)
        if len(points) != len(images):
            raise ValueError(f"{len(images)} images have {len(points)} sets of landmarks")
        pose = pose_from_landmarks(points)
        found |= {"yaw": pose[:, 0], "pitch": pose[:, 1], "roll": pose[:, 2]}
        eyes, mouth = points[:, :2], points[:, 3:]
        found["mouth_width"] = _length(mouth[:, 1] - mouth[:, 0]) / _length(eyes[:, 1] - eyes[:, 0])
        nose = points[:, 2]
        found["mouth_drop"] = _length(mouth.mean(1) - nose) / _length(nose - eyes.mean(1))
    light = np.array([_light(image) for image in images], np.float64).reshape(-1, 5)
    names = ("brightness", "contrast", "side_light", "warmth", "sharpness")
    return found | {name: light[:, column] for column, name in enumerate(names)}


def pose_from_landmarks(landmarks: ArrayLike) -> Floats:
    """Yaw, pitch and roll [N, 3] in degrees of landmarks [N, 5, 2].

    The rotation that, under a camera without perspective, brings an average face nearest to the five points. Noses
    differ in length and mouths move, so a single face is off by several degrees; spreads of a set are meaningful.

    Raises:
        ValueError: wrong shape.
    """
    points = _checked(landmarks)
    model = _MODEL - _MODEL.mean(0)
    centered = points - points.mean(1, keepdims=True)
    # [N, 2, 3]: two rows of a rotation, scaled; made orthogonal by the nearest such pair.
    affine = np.einsum("npk,pm->nkm", centered, np.linalg.pinv(model).T)
    left, _, right = np.linalg.svd(affine, full_matrices=False)
    rows = left @ right
    third = np.cross(rows[:, 0], rows[:, 1])
    # Pitch, then yaw, then roll turn the head.
    yaw = np.arcsin(np.clip(third[:, 0], -1, 1))
    pitch = np.arctan2(-third[:, 1], third[:, 2])
    roll = np.arctan2(rows[:, 1, 0], rows[:, 0, 0])
    return np.rad2deg(np.stack([yaw, pitch, roll], axis=1))


def _light(image: NDArray[np.uint8]) -> tuple[float, float, float, float, float]:
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    half = gray.shape[1] // 2
    left, right = float(gray[:, :half].mean()), float(gray[:, -half:].mean())
    red, _, blue, _ = cv2.mean(image)
    side = 2 * (right - left) / max(right + left, 1e-9)
    return float(gray.mean()), float(gray.std()), side, red - blue, sharpness(image)


def _length(vectors: Floats) -> Floats:
    # Landmarks that fall together must not divide by zero.
    return np.asarray(np.maximum(np.linalg.norm(vectors, axis=-1), 1e-6))


def _checked(landmarks: ArrayLike) -> Floats:
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (5, 2):
        raise ValueError(f"landmarks must be [N, 5, 2], got {list(points.shape)}")
    return points
