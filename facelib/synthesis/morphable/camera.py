"""Pose and camera: head frame -> camera frame -> pixels.

The camera looks along -z at a head `distance` cm away. Point arrays are [n, 3]; grids are [3, V, U], coordinates first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable.geometry import HEAD_ROWS

Array = npt.NDArray[Any]
# Heads turn about the upper neck.
_PIVOT = np.array([0.0, -4.0, -1.0])
_FACE_DEPTH = 8.0
_NECK_ROW = 146


@dataclass(frozen=True)
class Camera:
    """rotation [3, 3]; distance cm; focal pixels; the point `origin` (x, y cm, camera frame) is seen at pixel
    `center`.
    """

    rotation: Array
    distance: float
    focal: float
    center: Array
    origin: Array

    @property
    def pixels_per_cm(self) -> float:
        """Scale at the face."""
        return self.focal / (self.distance - _FACE_DEPTH)

    def project(self, points: Array) -> Array:
        """Points [n, 3] of the head frame -> (x, y in pixels, depth in cm) [n, 3]."""
        return self.view(self.turn(np.asarray(points, np.float64).T)).T

    def turn(self, grid: Array) -> Array:
        """Head frame -> camera frame, [3, ...] cm."""
        shift = _PIVOT - self.rotation @ _PIVOT
        r = self.rotation.astype(grid.dtype)
        out = np.empty_like(grid)
        for axis in range(3):
            out[axis] = (
                grid[0] * r[axis, 0] + grid[1] * r[axis, 1] + grid[2] * r[axis, 2] + grid.dtype.type(shift[axis])
            )
        return out

    def turn_head(self, grid: Array) -> Array:
        """The same for the head's atlas [3, V, U]: the lower rows of the neck follow in part."""
        turned = self.turn(grid)
        rows = slice(_NECK_ROW, HEAD_ROWS)
        share = np.linspace(0, 0.7, HEAD_ROWS - _NECK_ROW, dtype=np.float32)[:, None]
        turned[:, rows] += share * (grid[:, rows] - turned[:, rows])
        return turned

    def view(self, turned: Array) -> Array:
        """Camera frame -> (x, y in pixels, depth in cm), [3, ...]."""
        kind = turned.dtype.type
        out = np.empty_like(turned)
        np.subtract(kind(self.distance), turned[2], out=out[2])
        factor = kind(self.focal) / out[2]
        out[0] = (turned[0] - kind(self.origin[0])) * factor + kind(self.center[0])
        out[1] = (kind(self.origin[1]) - turned[1]) * factor + kind(self.center[1])
        return out

    def scaled(self, factor: float) -> Camera:
        """The same view in an image `factor` times as large."""
        return Camera(self.rotation, self.distance, self.focal * factor, self.center * factor, self.origin)


def make_camera(angles: Array, distance: float, pixels_per_cm: float, center: Array) -> Camera:
    """A camera that sees the middle of a face turned by (yaw, pitch, roll) radians at pixel `center`."""
    rotation = rotation_matrix(*angles)
    face = rotation @ (np.array([0, -1.6, 7.0]) - _PIVOT) + _PIVOT
    return Camera(rotation, distance, pixels_per_cm * (distance - _FACE_DEPTH), center, face[:2])


def rotation_matrix(yaw: float, pitch: float, roll: float) -> Array:
    """Rotation by yaw, then pitch, then roll, radians; positive: to the image's right, down, anticlockwise."""
    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    ry = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    rx = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    rz = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return rz @ rx @ ry
