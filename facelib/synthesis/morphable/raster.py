"""Visibility: a grid of projected vertices -> for each pixel, which point of the grid is seen.

The grid is refined until its points lie closer than a pixel, every point falls into its pixel, the nearest wins
(minimum over whole-number keys, so the result does not depend on any order), and the winner's grid coordinates are
corrected to the pixel's center with the local derivative. Attributes are then read with `cv2.remap`, smooth and
without triangles.

Shapes: V rows, U columns of the grid, S image size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_FAR = 1e18
_INDEX_BITS = 22
# Added to the depth (cm) of points on the far side, and the key above which such points lie.
_AWAY = 4000.0
_AWAY_KEY = 0.4 * _AWAY * 2048.0 * 2.0**_INDEX_BITS


@dataclass(frozen=True)
class Visible:
    """mask bool [S, S]; u, v float32 [S, S] grid coordinates (columns, rows); depth float32 [S, S] cm, large where
    empty.
    """

    mask: Array
    u: Array
    v: Array
    depth: Array

    def sample(self, grid: Array, scale: float = 1.0) -> Array:
        """Bilinear values [S, S, C <= 4] of an attribute grid [V * scale, U * scale, C]."""
        if scale == 1.0:
            return cv2.remap(grid, self.u, self.v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        u, v = (self.u + 0.5) * scale - 0.5, (self.v + 0.5) * scale - 0.5
        return cv2.remap(
            grid, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )


def rasterise(
    screen: Array, size: int, up: int, patches: tuple[tuple[slice, slice], ...], insides: bool = False
) -> Visible:
    """Visible points of `screen` [3, V, U] (x, y in pixels, depth in cm), refined `up` times in both directions.

    `patches` are the row and column ranges that are surfaces of their own: nothing is drawn between them. The first
    one's far side is not seen, or with `insides` only where no near side is: never through gaps between points.
    """
    planes = [np.ascontiguousarray(plane, dtype=np.float32) for plane in screen]
    # One entry more than pixels: points outside the image fall there.
    keys = np.full(size * size + 1, _FAR)
    points, offset = [], 0
    derivative = _derivative(planes, patches)
    # Rows run down and columns right: a surface seen from outside keeps that sense in the image.
    away = derivative[..., 0] * derivative[..., 3] < derivative[..., 1] * derivative[..., 2]
    for number, (rows, columns) in enumerate(patches):
        x, y, depth = (_refine(plane[rows, columns], up) for plane in planes)
        far = _refine(np.where(away[rows, columns], np.float32(_AWAY), np.float32(0)), up) if number == 0 else None
        _splat(x, y, depth if far is None else depth + far, size, offset, keys)
        offset += x.size
        points.append((x.ravel(), y.ravel(), depth.ravel()))
    us, vs = _coordinates(tuple((r.start, r.stop, c.start, c.stop) for r, c in patches), up)
    image = _close_holes(keys[:-1].reshape(size, size))
    if not insides:
        image[image > _AWAY_KEY] = _FAR
    return _resolve(image, points, us, vs, derivative)


def depth_buffer(x: Array, y: Array, depth: Array, size: int) -> Array:
    """Nearest depth [size, size] of points at x, y (pixels); large where empty. For shadows."""
    out = np.full(size * size + 1, 1e6, np.float32)
    np.minimum.at(out, _pixels(x, y, size), depth.ravel())
    return out[:-1].reshape(size, size)


def _pixels(x: Array, y: Array, size: int) -> Array:
    """Index of each point's pixel, size * size when outside."""
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    index = y.astype(np.int32) * size + x.astype(np.int32)
    return np.where(inside, index, size * size).ravel()


def _refine(plane: Array, up: int) -> Array:
    """Linear interpolation: (V - 1) * up + 1 rows, (U - 1) * up + 1 columns."""
    rows, columns = plane.shape
    tall = np.empty(((rows - 1) * up + 1, columns), np.float32)
    tall[::up] = plane
    for step in range(1, up):
        tall[step::up] = plane[:-1] + (plane[1:] - plane[:-1]) * np.float32(step / up)
    out = np.empty((tall.shape[0], (columns - 1) * up + 1), np.float32)
    out[:, ::up] = tall
    slope = tall[:, 1:] - tall[:, :-1]
    for step in range(1, up):
        out[:, step::up] = tall[:, :-1] + slope * np.float32(step / up)
    return out


@lru_cache(maxsize=64)
def _coordinates(patches: tuple[tuple[int, int, int, int], ...], up: int) -> tuple[Array, Array]:
    """Grid coordinates u and v [points] of all refined points of patches (row start, stop, column start, stop)."""
    us, vs = [], []
    for top, bottom, left, right in patches:
        u = left + np.arange((right - left - 1) * up + 1, dtype=np.float32) / np.float32(up)
        v = top + np.arange((bottom - top - 1) * up + 1, dtype=np.float32) / np.float32(up)
        us.append(np.tile(u, v.size))
        vs.append(np.repeat(v, u.size))
    return np.concatenate(us), np.concatenate(vs)


def _splat(x: Array, y: Array, depth: Array, size: int, offset: int, keys: Array) -> None:
    # Nearest first, then the lowest index: whole numbers below 2^53, exact in float64 and free of any order.
    code = np.floor(depth.ravel() * np.float32(2048.0)).astype(np.float64)
    code *= 2.0**_INDEX_BITS
    code += np.arange(offset, offset + code.size, dtype=np.float64)
    np.minimum.at(keys, _pixels(x, y, size), code)


def _close_holes(keys: Array) -> Array:
    """Empty pixels between covered ones take their nearest neighbor's key."""
    # Far-side points between near ones are holes too.
    covered = (keys < _AWAY_KEY).astype(np.uint8)
    closed = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, _square())
    holes = closed > covered
    return np.where(holes, cv2.erode(keys, _square()), keys)


@lru_cache(maxsize=1)
def _square() -> Array:
    return np.ones((3, 3), np.uint8)


def _derivative(planes: list[Array], patches: tuple[tuple[slice, slice], ...]) -> Array:
    """d(x, y)/d(u, v) at the vertices, [V, U, 4] as xu, yu, xv, yv."""
    out = np.zeros((*planes[0].shape, 4), np.float32)
    for rows, columns in patches:
        for c in (0, 1):
            part = planes[c][rows, columns]
            du, dv = out[rows, columns, c], out[rows, columns, c + 2]
            du[:, 1:-1] = (part[:, 2:] - part[:, :-2]) * np.float32(0.5)
            du[:, 0], du[:, -1] = part[:, 1] - part[:, 0], part[:, -1] - part[:, -2]
            dv[1:-1] = (part[2:] - part[:-2]) * np.float32(0.5)
            dv[0], dv[-1] = part[1] - part[0], part[-1] - part[-2]
    return out


def _resolve(keys: Array, points: list[tuple[Array, Array, Array]], us: Array, vs: Array, derivative: Array) -> Visible:
    """Winning keys -> grid coordinates at pixel centers."""
    size = keys.shape[0]
    mask = keys < _FAR
    winner = np.where(mask, keys, 0.0)
    winner -= np.floor(winner * 2.0**-_INDEX_BITS) * 2.0**_INDEX_BITS
    index = winner.astype(np.int32)
    x, y, depth = (np.concatenate([patch[c] for patch in points])[index] for c in range(3))
    u, v = us[index], vs[index]
    d = cv2.remap(derivative, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    xu, yu, xv, yv = (d[..., c] for c in range(4))
    center = np.arange(size, dtype=np.float32) + np.float32(0.5)
    ox, oy = center[None] - x, center[:, None] - y
    det = xu * yv - yu * xv
    det[np.abs(det) < 0.02] = np.inf
    # At most a vertex and a half: the derivative is local.
    limit = np.float32(1.5)
    u += np.clip((ox * yv - oy * xv) / det, -limit, limit)
    v += np.clip((oy * xu - ox * yu) / det, -limit, limit)
    depth[~mask] = 1e6
    return Visible(mask, u, v, depth)
