"""One row of factors by name, and what it does to the face: expression, eyelids, landmarks.

Shapes: K expression fields, see `motion.EXPRESSIONS`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable.geometry import HEAD_ROWS, HeadShape
from facelib.synthesis.morphable.motion import EXPRESSIONS
from facelib.synthesis.morphable.traits import Traits, key_of

Array = npt.NDArray[Any]
# Names of the noise latents, in order.
_NOISE = (
    "hair_0", "hair_1", "hair_2", "hair_3", "hair_4", "hair_5", "glasses", "glasses_style", "hat", "makeup", "tan",
    "beard", "distance",
    "scale", "shift_x", "shift_y", "brightness", "contrast", "gamma", "saturation", "white_balance", "tint",
    "focus", "motion",
    "low_resolution", "grain", "jpeg", "occluder", "exposure", "weight", "flush", "detail",
)  # fmt: skip


class ImageFactors:
    """Named access to one row of factors."""

    def __init__(self, row: Array, slices: dict[str, slice]) -> None:
        self.expression, self.illumination = row[slices["expression"]], row[slices["illumination"]]
        self.rotation, self.noise = row[slices["rotation"]].astype(np.float64), row[slices["noise"]]
        self.key = key_of(row)

    def __getitem__(self, name: str) -> float:
        return float(self.noise[_NOISE.index(name)])

    def photo(self, variation: float) -> dict[str, float]:
        names = _NOISE[_NOISE.index("brightness") : _NOISE.index("jpeg") + 1]
        return {name: self[name] * (variation if name not in ("grain", "jpeg", "focus") else 1.0) for name in names}


def expression(z: ImageFactors, t: Traits) -> Array:
    """Activations [K] of the expression fields, in the order of EXPRESSIONS."""
    e = np.clip(z.expression.astype(np.float64), -2.8, 2.8)
    smile = max(0.0, 0.35 + 0.55 * e[1] + 0.25 * t["smile_habit"])
    jaw = max(0.0, 0.55 * (e[0] - 0.35)) + 0.28 * max(0.0, smile - 0.45)
    values = {
        "jaw": min(jaw, 2.0), "smile": min(smile, 1.6), "wide": 0.5 * max(0.0, e[2]), "pucker": 0.6 * max(0.0,
        -e[2] - 0.7),
        "corner_down": max(0.0, 0.6 * e[10] - 0.2) * (smile < 0.4), "upper_lip": 0.5 * max(0.0, e[3]),
        "brow_up": max(0.0, 0.6 * e[4] - 0.1),
        "brow_outer": 0.35 * e[6], "frown": max(0.0, 0.6 * e[5] - 0.15), "squint": max(0.0,
        0.6 * smile - 0.2) + max(0.0, 0.4 * e[13]),
        "puff": max(0.0, 0.4 * e[12] - 0.3), "nose_wrinkle": max(0.0, 0.5 * e[14] - 0.3),
        "mouth_side": 0.25 * e[11], "jaw_side": 0.3 * e[15],
        "weight": 0.55 * float(np.clip(z["weight"], -2.5, 2.5)),
    }  # fmt: skip
    return np.array([values[name] for name in EXPRESSIONS])


def eye_openness(z: ImageFactors, t: Traits, active: Array) -> float:
    """How open the eyes are: 0 shut, 1 normal."""
    e = z.expression
    if e[7] > 1.95:
        return 0.05
    squint = float(active[EXPRESSIONS.index("squint")])
    return float(
        np.clip(1.0 + 0.13 * e[6] - 0.34 * squint + 0.1 * float(active[EXPRESSIONS.index("brow_up")]), 0.3, 1.4)
    )


def landmarks_3d(shape: HeadShape, active: Array) -> Array:
    """Eye centers, nose tip and mouth corners [5, 3] in the head frame, moved by the expression."""
    p = shape.places
    rest = shape.rest[:HEAD_ROWS]
    moved = np.moveaxis(shape.moved(active)[:, :HEAD_ROWS], 0, -1)
    targets = [
        (-p["eye_x"], p["eye_y"] + 0.18), (p["eye_x"], p["eye_y"] + 0.18), (0.0, p["nose_y"] + 0.38),
        (-0.94 * p["mouth_w"], p["mouth_y"] + 0.1), (0.94 * p["mouth_w"], p["mouth_y"] + 0.1),
    ]  # fmt: skip
    out = []
    for x, y in targets:
        distance = (rest[..., 0] - x) ** 2 + (rest[..., 1] - y) ** 2 + 100.0 * (rest[..., 2] < 3)
        nearest = int(np.argmin(distance))
        offset = np.array([x, y, 0.0]) - np.append(rest.reshape(-1, 3)[nearest, :2], 0.0)
        out.append(moved.reshape(-1, 3)[nearest] + offset)
    return np.asarray(out)
