"""Visibility: a grid of projected vertices -> for each pixel, which point of the grid is seen.

The grid is refined until its points lie closer than a pixel, every point falls into its pixel, the nearest wins (minimum
over whole-number keys, so the result does not depend on any order), and the winner's grid coordinates are
corrected to the pixel's centre with the local derivative. Attributes are then read with `cv2.remap`, smooth and without triangles.

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


@dataclass(frozen=True)
class Visible:
    """mask bool [S, S]; u, v float32 [S, S] grid coordinates (columns, rows); depth float32 [S, S] cm, large where empty."""

    mask: Array
    u: Array
    v: Array
    depth: Array

    def sample(self, grid: Array, scale: float = 1.0) -> Array:
        """Bilinear values [S, S, C <= 4] of an attribute grid [V * scale, U * scale, C]."""
        if scale == 1.0:
            return cv2.remap(grid, self.u, self.v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        u, v = (self.u + 0.5) * scale - 0.5, (self.v + 0.5) * scale - 0.5
        return cv2.remap(grid, u.astype(np.float32), v.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def rasterise(screen: Array, size: int, up: int, patches: tuple[tuple[slice, slice], ...]) -> Visible:
    """Visible points of `screen` [V, U, 3] (x, y in pixels, depth in cm), refined `up` times in both directions.

    `patches` are the row and column ranges that are surfaces of their own: nothing is drawn between them.
    """
    points, us, vs = [], [], []
    for rows, columns in patches:
        dense = _refine(screen[rows, columns], up)
        points.append(dense)
        us.append(columns.start + np.arange(dense.shape[1], dtype=np.float32) / up)
        vs.append(rows.start + np.arange(dense.shape[0], dtype=np.float32) / up)
    keys = np.full(size * size, _FAR)
    offset = 0
    for dense in points:
        _splat(dense, size, offset, keys)
        offset += dense.shape[0] * dense.shape[1]
    image = _close_holes(keys.reshape(size, size))
    return _resolve(image, points, us, vs, up)


def depth_buffer(screen: Array, size: int) -> Array:
    """Nearest depth [size, size] of the points of `screen` [..., 3]; large where empty. For shadows."""
    x, y = np.floor(screen[..., 0]).astype(np.int32).ravel(), np.floor(screen[..., 1]).astype(np.int32).ravel()
    keep = (x >= 0) & (x < size) & (y >= 0) & (y < size)
    out = np.full(size * size, 1e6, np.float32)
    np.minimum.at(out, (y * size + x)[keep], screen[..., 2].ravel()[keep])
    return out.reshape(size, size)


def _refine(grid: Array, up: int) -> Array:
    """Linear interpolation: (V - 1) * up + 1 rows, (U - 1) * up + 1 columns."""
    if up == 1:
        return np.ascontiguousarray(grid)
    rows, columns = grid.shape[:2]
    matrix = np.array([[1 / up, 0, 0], [0, 1 / up, 0]], np.float64)
    size = ((columns - 1) * up + 1, (rows - 1) * up + 1)
    return cv2.warpAffine(
        np.ascontiguousarray(grid), matrix, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE
    )


def _splat(dense: Array, size: int, offset: int, keys: Array) -> None:
    x, y = dense[..., 0].ravel(), dense[..., 1].ravel()
    keep = np.flatnonzero((x >= 0) & (x < size) & (y >= 0) & (y < size))
    pixel = y[keep].astype(np.int32) * size + x[keep].astype(np.int32)
    depth = np.floor(dense[..., 2].ravel()[keep].astype(np.float64) * 2048.0)
    np.minimum.at(keys, pixel, depth * 2.0**_INDEX_BITS + (keep + offset))


def _close_holes(keys: Array) -> Array:
    """Empty pixels between covered ones take their nearest neighbour's key."""
    covered = (keys < _FAR).astype(np.uint8)
    closed = cv2.morphologyEx(covered, cv2.MORPH_CLOSE, _square())
    holes = (closed > 0) & (covered == 0)
    if holes.any():
        keys = np.where(holes, cv2.erode(keys, _square()), keys)
    return keys


@lru_cache(maxsize=1)
def _square() -> Array:
    return np.ones((3, 3), np.uint8)


def _resolve(keys: Array, points: list[Array], us: list[Array], vs: list[Array], up: int) -> Visible:
    """Winning keys -> grid coordinates at pixel centres."""
    size = keys.shape[0]
    mask = keys < _FAR
    py, px = np.nonzero(mask)
    winner = (keys[mask] % 2.0**_INDEX_BITS).astype(np.int64)
    u, v = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    depth = np.full((size, size), 1e6, np.float32)
    start = 0
    for dense, u_axis, v_axis in zip(points, us, vs):
        rows, columns = dense.shape[:2]
        mine = (winner >= start) & (winner < start + rows * columns) if len(points) > 1 else slice(None)
        local, my, mx = winner[mine] - start, py[mine], px[mine]
        start += rows * columns
        row, column = local // columns, local % columns
        flat = dense.reshape(-1, dense.shape[2])
        here = flat[local]
        left, right = local - (column > 0), local + (column < columns - 1)
        upper, lower = local - columns * (row > 0), local + columns * (row < rows - 1)
        du = (flat[right, :2] - flat[left, :2]) / (right - left)[:, None].astype(np.float32)
        dv = (flat[lower, :2] - flat[upper, :2]) / ((lower - upper) // columns)[:, None].astype(np.float32)
        ox, oy = mx + np.float32(0.5) - here[:, 0], my + np.float32(0.5) - here[:, 1]
        det = du[:, 0] * dv[:, 1] - du[:, 1] * dv[:, 0]
        det = np.where(np.abs(det) < 0.02, np.float32(np.inf), det)
        a = np.clip((ox * dv[:, 1] - oy * dv[:, 0]) / det, -1.5, 1.5)
        b = np.clip((oy * du[:, 0] - ox * du[:, 1]) / det, -1.5, 1.5)
        u[my, mx] = np.clip(u_axis[column] + a / up, u_axis[0], u_axis[-1])
        v[my, mx] = np.clip(v_axis[row] + b / up, v_axis[0], v_axis[-1])
        depth[my, mx] = here[:, 2]
    return Visible(mask, u, v, depth)
