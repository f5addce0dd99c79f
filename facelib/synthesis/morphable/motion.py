"""How expressions move the skin: one displacement field for each, shaped by where the person's features are.

Shapes: K expressions, U columns of the head's grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
# Expression fields in order; `expression_fields` gives the displacement (cm) at activation 1.
EXPRESSIONS = (
    "jaw", "smile", "wide", "pucker", "corner_down", "upper_lip", "brow_up", "brow_outer", "frown", "squint",
    "puff", "nose_wrinkle",
    "mouth_side", "jaw_side", "weight",
)  # fmt: skip


def expression_fields(p: dict[str, float], face: Array, front: Array) -> Array:
    """Displacements [K, 3, rows, U], cm, of the face [rows, U, 3] by each expression at activation 1.

    `p` holds the places of the features; `front` [rows, U] is 1 on the face and 0 on the sides of the head.
    """
    fields = np.zeros((len(EXPRESSIONS), 3, *face.shape[:2]), np.float32)
    at = {name: np.moveaxis(fields[k], 0, -1) for k, name in enumerate(EXPRESSIONS)}
    x, y, z = np.ascontiguousarray(np.moveaxis(face, -1, 0))
    # Pulls to the sides fade out at the midline, where the surface would tear.
    ax, side = np.abs(x), np.clip(x / 1.2, -1, 1)
    ex, my, mw = p["eye_x"], p["mouth_y"], p["mouth_w"]

    def bump(cx: float, cy: float, sx: float, sy: float) -> Array:
        return np.exp(-0.5 * (((ax - cx) / sx) ** 2 + ((y - cy) / sy) ** 2)) * front

    # The slit between the lips (0.56 cm at rest) takes up the jaw's fall in the middle; at the corners the skin
    # stretches.
    middle = np.exp(-((ax / (mw * 0.98)) ** 4))
    sharp, wide = smoothstep(my + 0.28 - y, 0.0, 0.56), smoothstep(my + 1.3 - y, 0.0, 2.6)
    fall = (
        (middle * sharp + (1 - middle) * wide)
        * smoothstep(z, -3.0, 4.0)
        * smoothstep(y, p["chin_y"] - 3.5, p["chin_y"] - 0.8)
    )
    at["jaw"][..., 1] = -fall
    at["jaw"][..., 2] = -0.28 * fall
    at["jaw_side"][..., 0] = 0.35 * fall
    corner, mouth = bump(mw, my, 0.8, 0.7), bump(0, my, mw * 0.8, 0.9)
    pull = bump(mw * 0.8, my, 1.2, 0.9) * np.minimum(1, ax / mw)
    apple = bump(ex + 0.7, -3.6, 1.3, 1.0)
    at["smile"][..., 0] = side * (0.62 * pull + 0.15 * apple)
    at["smile"][..., 1] = 0.55 * corner + 0.3 * apple + 0.12 * bump(ex, -1.6, 1.4, 0.5)
    at["smile"][..., 2] = -0.45 * pull + 0.42 * apple - 0.2 * bump(mw + 0.8, my + 0.8, 0.5, 1.2)
    at["wide"][..., 0] = side * 0.5 * pull
    at["pucker"][..., 0] = -side * 0.75 * pull
    at["pucker"][..., 2] = 0.6 * mouth
    at["corner_down"][..., 1] = -0.45 * corner + 0.12 * mouth
    at["upper_lip"][..., 1] = 0.3 * bump(0, my + 0.5, mw * 0.8, 0.5) * (y > my - 0.3)
    brow = bump(ex - 0.6, p["brow_y"], 1.3, 1.1)
    outer = bump(ex + 1.5, p["brow_y"], 1.0, 1.0)
    at["brow_up"][..., 1] = 0.7 * np.maximum(brow, 0.8 * outer)
    at["brow_outer"][..., 1] = 0.55 * outer
    inner = bump(1.4, p["brow_y"] - 0.1, 0.9, 0.8)
    at["frown"][..., 0] = -side * 0.35 * inner
    at["frown"][..., 1] = -0.42 * brow - 0.2 * inner
    at["frown"][..., 2] = 0.2 * bump(0.8, p["brow_y"], 0.5, 0.8) - 0.2 * bump(0, p["brow_y"], 0.3, 0.8)
    at["squint"][..., 1] = 0.18 * bump(ex, -1.5, 1.4, 0.6)
    at["squint"][..., 2] = 0.15 * bump(ex, -1.5, 1.3, 0.4)
    at["puff"][..., 2] = 0.5 * bump(4.2, my + 0.5, 1.5, 1.6)
    at["puff"][..., 0] = side * 0.4 * bump(5.0, my + 0.5, 1.5, 1.6)
    at["nose_wrinkle"][..., 1] = 0.25 * bump(1.0, p["nose_y"], 0.9, 1.0)
    at["mouth_side"][..., 0] = 0.4 * mouth
    cheeks, under = bump(5.2, my + 0.5, 1.8, 2.2), bump(2.5, p["chin_y"], 3.0, 1.0)
    at["weight"][..., 0] = side * 0.35 * cheeks
    at["weight"][..., 2] = 0.16 * cheeks
    at["weight"][..., 1] = -0.2 * under
    return fields


def smoothstep(value: Array, low: float, high: float) -> Array:
    """Smoothstep from 0 at low to 1 at high."""
    s = np.clip((value - low) / (high - low), 0, 1)
    return s * s * (3 - 2 * s)
