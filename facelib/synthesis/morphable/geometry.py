"""The head: a grid of vertices whose shape follows the traits, and the fields that move it with the expression.

Units are centimeters in the head frame: x to the image's right, y up, z toward the viewer; the pupils of the mean
head lie at (+-3.15, 0, ~8.4). Rows of the grid are rings from crown to collar; a ring is a superellipse whose height
in front and behind, half-width, depth and exponent are smooth (PCHIP) functions of the row. Features (nose, sockets,
lips ...) are Gaussians and profiles over the face plane (x, y), added to that skull; all their places and sizes are
traits. The ears are two further patches.

Shapes: V rows, U columns of the whole atlas (head rows, then ear rows), K expression fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

from facelib.synthesis.morphable.motion import expression_fields, smoothstep
from facelib.synthesis.morphable.traits import RANDOM_MODES, Traits

Array = npt.NDArray[Any]

HEAD_ROWS, EAR_ROWS, COLUMNS = 160, 24, 128
ROWS = HEAD_ROWS + EAR_ROWS
# Rings: row, front y, back y, half-width, front z, back z, exponent.
_RINGS = np.array([
    [0, 11.7, 11.7, 0.05, -0.95, -1.05, 2.0],
    [10, 10.9, 10.5, 4.0, 3.9, -5.8, 2.0],
    [22, 9.0, 8.0, 6.25, 7.1, -8.7, 2.05],
    [36, 6.0, 4.6, 7.3, 8.9, -9.9, 2.15],
    [56, 2.5, 1.6, 7.45, 9.35, -9.8, 2.2],
    [70, 0.0, -0.8, 7.2, 9.15, -9.4, 2.2],
    [87, -3.0, -2.6, 6.95, 9.15, -8.6, 2.15],
    [109, -6.9, -4.4, 6.05, 9.15, -7.4, 2.05],
    [124, -9.7, -5.6, 5.05, 8.7, -6.6, 2.0],
    [132, -11.1, -6.4, 4.4, 7.7, -6.2, 1.95],
    [138, -11.75, -7.2, 4.2, 5.6, -6.0, 2.0],
    [143, -11.7, -8.4, 4.4, 3.4, -5.9, 2.0],
    [150, -13.6, -11.5, 4.9, 2.4, -6.0, 2.0],
    [159, -19.0, -18.0, 6.0, 3.0, -7.0, 2.0],
])  # fmt: skip
FACE_ROWS = slice(18, 146)
# From the eyes' line to the tip, cm.
_NOSE_LENGTH = 3.6


@dataclass(frozen=True)
class HeadShape:
    """One person's head at rest.

    rest [V, U, 3] cm; skull [HEAD_ROWS, U, 3] without features (hair and hats sit on it); fields [K, 3, FACE_ROWS, U]
    cm; occlusion [V, U] in 0..1 (creases are dark); places: where eyes, mouth and nose are, cm.
    """

    rest: Array
    skull: Array
    fields: Array
    occlusion: Array
    places: dict[str, float]

    def moved(self, activations: Array) -> Array:
        """The head with an expression, coordinates first [3, V, U]; activations [K]."""
        planes = np.ascontiguousarray(np.moveaxis(self.rest, -1, 0))
        weights = np.asarray(activations, np.float32)
        planes[:, FACE_ROWS] += (weights @ self.fields.reshape(weights.size, -1)).reshape(self.fields.shape[1:])
        return planes


def shape_head(traits: Traits) -> HeadShape:
    """Build the head of one person."""
    t = traits
    places = _places(t)
    skull = _skull(t)
    face = skull[FACE_ROWS]
    x, y = np.ascontiguousarray(face[..., 0]), np.ascontiguousarray(face[..., 1])
    front = smoothstep(face[..., 2], 1.0, 4.5)
    height = (_features(t, places, x, y) + _nose(t, places, x, y)) * front
    head = skull.copy()
    head[FACE_ROWS, :, 2] += height
    head[FACE_ROWS] += _sideways(t, places, x, y, front) + np.tensordot(t.modes, _random_modes(), axes=1)
    rest = np.concatenate([head, _ears(t, skull)], axis=0).astype(np.float32)
    places["eye_z"] = float(_front_z(rest, places["eye_x"], places["eye_y"]))
    return HeadShape(
        rest, skull.astype(np.float32), expression_fields(places, rest[FACE_ROWS], front), _occlusion(rest), places
    )


def _places(t: Traits) -> dict[str, float]:
    """Landmarks of the face plane in cm, and the sizes of eyes and mouth."""
    nose_length = _NOSE_LENGTH + 0.42 * t["nose_length"] + 0.16 * t["midface"]
    mouth_y = -(
        nose_length
        + 3.02
        + 0.18 * t["midface"]
        + 0.24 * t["philtrum"]
        + 0.2 * t["face_length"]
        + 0.16 * t["mouth_height"]
    )
    return {
        "eye_x": 3.15 + 0.22 * t["eye_distance"] + 0.05 * t["head_width"],
        "eye_y": 0.12 * t["eye_height"],
        "eye_w": (1.46 * np.exp(0.09 * t["eye_size"])),
        "eye_h": (0.60 * np.exp(0.15 * t["eye_size"] + 0.13 * t["eye_round"] - 0.10 * max(0.0, t["eye_fold"]))),
        "eye_tilt": 0.05 + 0.07 * t["eye_tilt"],
        "brow_y": 1.95 + 0.33 * t["brow_height"] - 0.1 * t["brow_ridge"],
        "nose_y": -nose_length,
        "nose_w": 1.62 * np.exp(0.15 * t["nose_width"]),
        "mouth_y": min(mouth_y, -nose_length - 1.9),
        "mouth_w": 2.55 * np.exp(0.10 * t["mouth_width"]),
        "lip_u": 0.62 * np.exp(0.26 * t["lip_upper"]),
        "lip_l": 0.82 * np.exp(0.22 * t["lip_lower"]),
        "chin_y": -11.0 - 0.55 * t["face_length"] - 0.33 * t["chin_height"] - 0.3 * t["midface"],
    }


def _skull(t: Traits) -> Array:
    """The smooth head and neck, [HEAD_ROWS, U, 3]."""
    r = _RINGS.copy()
    row, yf, yb, w, zf, zb, n = r.T
    width = 1 + 0.045 * t["head_width"]
    w *= width
    yf[:5] *= 1 + 0.045 * t["head_height"]
    yb[:5] *= 1 + 0.045 * t["head_height"]
    zb *= 1 + 0.05 * t["head_depth"]
    down = np.interp(row, [70, 132], [0, 1])
    # The chin's place stretches everything between the eyes and the chin, and the neck follows.
    chin = _places(t)["chin_y"] + 11.1
    yf += chin * np.interp(row, [70, 132, 160], [0, 1, 0.8])
    yb += chin * 0.5 * np.interp(row, [70, 132, 160], [0, 1, 1.2])
    w *= 1 + (0.075 * t["jaw_width"] + 0.035 * t.weight) * _bump(row, 118, 16) + 0.03 * t["temple"] * _bump(row, 45, 16)
    w *= 1 + (0.045 * t["cheekbone"] + 0.02 * t.weight) * _bump(row, 86, 14)
    w *= 1 + (0.085 * t["chin_width"] + 0.04 * t.weight) * _bump(row, 134, 9)
    yb += -0.5 * t["jaw_angle"] * down
    zf += 0.3 * t["chin_forward"] * _bump(row, 130, 9) + 0.2 * t["prognathism"] * _bump(row, 110, 14)
    zf += -0.45 * t["forehead_slope"] * np.interp(row, [10, 22, 36, 56], [1, 1.0, 0.6, 0])
    n += (
        0.13 * t["jaw_angle"] * _bump(row, 120, 14)
        + 0.12 * t["cheekbone"] * _bump(row, 84, 12)
        + 0.1 * t["forehead_height"] * _bump(row, 36, 12)
    )
    n += 0.1 * t["chin_width"] * _bump(row, 132, 8)
    w[-3:] *= 1 + 0.07 * t["neck_width"] + 0.07 * t.weight
    zf[-3:] += 0.35 * max(0.0, t.weight) + 0.15 * t["sag"]
    zf[-4:-2] += 0.55 * max(0.0, t.weight) + 0.25 * max(0.0, t["sag"])
    curves = PchipInterpolator(row, r[:, 1:])(np.arange(HEAD_ROWS))[:, None, :]
    return _rings(curves).astype(np.float32)


def _rings(curves: Array) -> Array:
    """Superellipses of ring values [rows, 1, 6] (front y, back y, half-width, front z, back z, exponent)."""
    yf, yb, w, zf, zb, n = np.moveaxis(curves, -1, 0)
    phi = column_angles()[None]
    cos, sin = np.cos(phi), np.sin(phi)
    power = 2.0 / n
    c = np.sign(cos) * np.abs(cos) ** power
    center = 0.35 * zf + 0.65 * zb
    center = np.clip(center, -3.0, 0.0)
    z = center + np.where(c > 0, zf - center, center - zb) * c
    y = yb + (yf - yb) * ((1 + cos) / 2) ** 1.25
    x = w * np.sign(sin) * np.abs(sin) ** power
    return np.stack([x, np.broadcast_to(y, x.shape), z], axis=-1)


@lru_cache(maxsize=1)
def column_angles() -> Array:
    """Angle of each column round the head, radians: 0 is the face, dense there; +-pi meet behind."""
    u = np.linspace(-1, 1, COLUMNS)
    return np.pi * (0.42 * u + 0.58 * u**5)


def _features(t: Traits, p: dict[str, float], x: Array, y: Array) -> Array:
    """Forward displacement of all but the nose, cm."""
    ex, ey, my, mw = p["eye_x"], p["eye_y"], p["mouth_y"], p["mouth_w"]
    chin = p["chin_y"]
    soft = max(0.0, t["sag"])
    # (flipped?, x, y, width, height, amplitude)
    pairs = [
        (ex - 0.1, ey + 0.25, 1.75, 1.0, -(0.95 + 0.3 * t["eye_depth"])),
        (ex - 1.5, ey + 0.1, 0.7, 0.9, -(0.45 + 0.15 * t["nose_root"])),
        (ex, ey - 0.05, 1.05, 0.8, 0.62 + 0.12 * t["eye_bulge"]),
        (ex, ey + 0.75, 1.2, 0.28, 0.10 + 0.10 * t["lid_hood"]),
        (ex - 0.6, p["brow_y"] - 0.1, 1.7, 0.55, 0.22 + 0.26 * t["brow_ridge"]),
        (ex + 1.6, p["brow_y"] - 0.2, 1.2, 0.7, 0.12 + 0.12 * t["brow_ridge"]),
        (ex + 0.1, ey - 1.45, 1.0, 0.38, 0.06 + 0.11 * t["bags"]),
        (ex + 0.1, ey - 2.0, 1.2, 0.35, -(0.06 + 0.07 * max(0.0, t["bags"]))),
        (4.7, -2.7, 1.5, 1.2, 0.25 + 0.34 * t["cheekbone"]),
        (3.6, -3.6, 1.6, 1.5, 0.1 + 0.18 * t["cheek_fat"] + 0.08 * t.weight),
        (4.3, my + 0.8, 1.4, 1.7, -0.15 + 0.26 * t.weight + 0.12 * t["cheek_fat"]),
        (mw + 1.3, my - 1.7, 1.0, 1.1, 0.05 + 0.2 * soft + 0.12 * t.weight),
        (mw + 0.35, my - 0.2, 0.45, 0.8, -(0.10 + 0.045 * t["naso_fold"])),
        (mw + 0.5, (my + p["nose_y"]) / 2 + 0.1, 0.35, 1.0, -(0.05 + 0.05 * t["naso_fold"])),
        (mw + 1.3, (my + p["nose_y"]) / 2 + 0.4, 0.6, 1.0, 0.04 + 0.05 * t["naso_fold"]),
        (6.4, 2.8, 1.0, 1.8, -0.15 + 0.2 * t["temple"]),
        (2.4, 5.6, 2.2, 1.6, 0.1 + 0.12 * t["forehead_height"]),
        (1.0 + 0.2 * t["chin_width"], chin + 1.0, 0.8, 0.8, 0.1 + 0.12 * t["chin_width"]),
    ]
    singles = [
        (0, 1.6, 1.0, 1.0, 0.12 + 0.14 * t["glabella"]),
        (0, my, mw * 1.1, 1.7, 0.55 + 0.22 * t["prognathism"]),
        (0, my + 0.42 * p["lip_u"] + 0.1, mw * 0.62, 0.36 * p["lip_u"] + 0.14,
        0.22 + 0.12 * t["lip_forward"] + 0.08 * t["lip_upper"]),
        (0, my - 0.5 * p["lip_l"] - 0.08, mw * 0.52, 0.38 * p["lip_l"] + 0.12,
        0.26 + 0.1 * t["lip_forward"] + 0.08 * t["lip_lower"]),
        (0, my, mw * 0.85, 0.13, -0.22),
        (0, my - 1.75, 1.7, 0.5, -(0.38 + 0.1 * t["chin_forward"])),
        (0, chin + 1.05, 1.25 + 0.2 * t["chin_width"], 0.95, 0.5 + 0.25 * t["chin_forward"] + 0.1 * t["chin_height"]),
        (0, my + p["lip_u"] + 0.5, 0.22, 0.5, -(0.1 + 0.03 * t["cupid"])),
        (0, 7.0, 4.0, 2.5, 0.15 * t["forehead_height"]),
    ]  # fmt: skip
    out = np.zeros_like(x)
    ax = np.abs(x)
    for cx, cy, sx, sy, amplitude in pairs:
        out += amplitude * np.exp(-0.5 * (((ax - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
    for cx, cy, sx, sy, amplitude in singles:
        out += amplitude * np.exp(-0.5 * (((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2))
    return out


def _nose(t: Traits, p: dict[str, float], x: Array, y: Array) -> Array:
    """Forward displacement of the nose: a ridge whose height and width follow profiles along y, wings and nostrils."""
    tip, width = p["nose_y"], p["nose_w"]
    scale = -tip / _NOSE_LENGTH
    bridge, root = t["nose_bridge"], t["nose_root"]
    knots = np.array([tip - 1.5, tip - 0.95, tip - 0.45, tip + 0.05, tip + 0.75, tip * 0.45, 0.25, 1.5, 3.0])
    high = np.array([
        0.0, 0.25, 1.2 + 0.38 * t["nose_tip_up"], 1.95 + 0.26 * bridge + 0.16 * t["nose_tip_up"], 1.85 + 0.26 * bridge,
        1.25 + 0.3 * bridge + 0.24 * t["nose_hump"] + 0.05 * root, 0.42 + 0.14 * bridge + 0.2 * root,
        0.12 + 0.1 * root, 0.0,
    ])  # fmt: skip
    high[2:6] *= 0.85 + 0.15 * scale
    wide = np.array([1.0, 0.85, 0.80, 0.78, 0.70, 0.58, 0.52, 0.75, 1.2]) * (0.55 + 0.45 * width / 1.62)
    wide[1:5] *= 1 + 0.13 * t["nose_tip"]
    profile = PchipInterpolator(knots, np.stack([np.maximum(high, 0.0), wide], -1))
    lines = np.clip(y, tip - 1.5, 3.0)
    h, w = np.moveaxis(profile(lines), -1, 0)
    axis = 0.09 * t["nose_twist"] * np.exp(-0.5 * ((y - tip * 0.6) / 1.6) ** 2)
    h, w = h.astype(np.float32), w.astype(np.float32)
    out = h * np.exp(-(np.abs((x - axis) / w) ** 1.7))
    ball = 0.34 + 0.1 * t["nose_tip"]
    out += ball * np.exp(-0.5 * (((x - axis) / (0.55 * width / 1.62)) ** 2 + ((y - tip - 0.05) / 0.5) ** 2))
    ax = np.abs(x - axis)
    wing = 0.75 * (1 + 0.13 * t["ala_size"])
    out += wing * np.exp(-0.5 * (((ax - width * 0.72) / 0.36) ** 2 + ((y - tip + 0.35) / 0.42) ** 2))
    # Groove round the wing, and under the tip where the nostrils are.
    out -= 0.18 * np.exp(-0.5 * (((ax - width * 1.12) / 0.22) ** 2 + ((y - tip + 0.3) / 0.5) ** 2))
    out -= (0.14 + 0.04 * t["nostril"]) * np.exp(
        -0.5 * (((ax - width * 0.42) / 0.25) ** 2 + ((y - tip + 0.72) / 0.2) ** 2)
    )
    return out


def _sideways(t: Traits, p: dict[str, float], x: Array, y: Array, front: Array) -> Array:
    """Displacement across and down: jaw corners, jowls and hanging cheeks, cm."""
    side, ax = np.sign(x), np.abs(x)
    corner = np.exp(-0.5 * (((ax - 5.7) / 1.3) ** 2 + ((y - p["mouth_y"] - 0.6) / 1.9) ** 2))
    jowl = np.exp(-0.5 * (((ax - 3.9) / 1.3) ** 2 + ((y - p["chin_y"] - 1.4) / 1.0) ** 2))
    out = np.zeros((*x.shape, 3), np.float32)
    out[..., 0] = side * ((0.28 * t["jaw_width"] + 0.3 * t.weight) * corner + 0.25 * max(0.0, t["sag"]) * jowl)
    out[..., 1] = -(0.32 * max(0.0, t["sag"]) + 0.2 * max(0.0, t.weight)) * jowl * front
    return out


@lru_cache(maxsize=1)
def _random_modes() -> Array:
    """Broad random bumps with no name [modes, rows, U, 3], some one-sided: what no list of features covers."""
    rng = np.random.Generator(np.random.Philox(key=77))
    curves = PchipInterpolator(_RINGS[:, 0], _RINGS[:, 1:])(np.arange(HEAD_ROWS))[:, None, :]
    face = _rings(curves)[FACE_ROWS]
    x, y, front = face[..., 0], face[..., 1], smoothstep(face[..., 2], 1.0, 4.5)
    out = np.zeros((RANDOM_MODES, *face.shape), np.float32)
    for k in range(RANDOM_MODES):
        cx, cy, size = rng.uniform(0, 5.5), rng.uniform(-10.5, 6.5), rng.uniform(1.1, 2.2)
        mirrored = k % 3 != 0
        direction = rng.normal(size=3) * np.array([0.2, 0.2, 0.36]) * (1.0 if mirrored else 0.4)
        ax = np.abs(x) if mirrored else x
        bump = np.exp(-0.5 * (((ax - cx) / size) ** 2 + ((y - cy) / size) ** 2)) * front
        out[k] = bump[..., None] * direction
        if mirrored:
            out[k, ..., 0] *= np.clip(x / 1.5, -1, 1)
    return out


def _ears(t: Traits, skull: Array) -> Array:
    """Both ears as two polar patches side by side, [EAR_ROWS, U, 3]."""
    half = COLUMNS // 2
    radius = np.linspace(0, 1, EAR_ROWS)[:, None]
    angle = np.linspace(0, 2 * np.pi, half)[None]
    size = 1 + 0.09 * t["ear_size"]
    out = 0.55 + 0.17 * t["ear_out"]
    # Along the ear (backwards) and up; the lobe is narrower, the outline leans back.
    up = radius * np.sin(angle) * 3.1 * size
    back = radius * np.cos(angle) * 1.75 * size * (1 + 0.22 * np.sin(angle)) - 0.16 * up
    rim = (
        np.exp(-0.5 * ((radius - 0.88) / 0.09) ** 2) * 0.35
        - np.exp(-0.5 * ((radius - 0.3) / 0.3) ** 2) * 0.5
        + 0.25 * radius
    )
    row = 74
    column = int(np.argmin(np.abs(column_angles() - 0.58 * np.pi)))
    anchor = skull[row, column]
    lift = -0.4 + 0.35 * t["ear_height"] - anchor[1]
    parts = []
    for side in (-1.0, 1.0):
        sin, cos = np.sin(np.clip(out, 0.1, 1.1)), np.cos(np.clip(out, 0.1, 1.1))
        x = side * (anchor[0] + 0.15 + (back + 1.2) * sin + rim * cos)
        z = anchor[2] + 0.6 - (back + 1.2) * cos + rim * sin
        parts.append(np.stack([x, up + anchor[1] + lift, z], -1)[:, :: int(-side)])
    return np.concatenate(parts, axis=1)


def _occlusion(rest: Array) -> Array:
    """How open to the sky each vertex is, 0..1: below the mean of its surroundings is a crease."""
    import cv2

    head = rest[:HEAD_ROWS]
    n = np.moveaxis(normals(np.ascontiguousarray(np.moveaxis(rest, -1, 0))), 0, -1)[:HEAD_ROWS]
    out = np.ones((ROWS, COLUMNS), np.float32)
    for size, gain in ((2.5, 1.1), (7.0, 0.45)):
        inward = ((cv2.GaussianBlur(head, (0, 0), size) - head) * n).sum(-1)
        out[:HEAD_ROWS] *= np.clip(1 - gain * np.maximum(inward, 0) * 1.3 + 0.06 * np.maximum(-inward, 0), 0.35, 1.08)
    radius = np.linspace(0, 1, EAR_ROWS)[:, None]
    out[HEAD_ROWS:] = 0.55 + 0.4 * radius
    return out


def normals(grid: Array) -> Array:
    """Unit normals [3, V, U] of a grid [3, V, U], outward; in an atlas the patches do not influence each other."""
    du, dv = np.empty_like(grid), np.empty_like(grid)
    du[..., 1:-1] = grid[..., 2:] - grid[..., :-2]
    du[..., 0] = grid[..., 1] - grid[..., 0]
    du[..., -1] = grid[..., -1] - grid[..., -2]
    dv[:, 1:-1] = grid[:, 2:] - grid[:, :-2]
    dv[:, 0], dv[:, -1] = dv[:, 1], dv[:, -2]
    if grid.shape[1] == ROWS:
        dv[:, HEAD_ROWS - 1], dv[:, HEAD_ROWS] = dv[:, HEAD_ROWS - 2], dv[:, HEAD_ROWS + 1]
        half = COLUMNS // 2
        du[:, HEAD_ROWS:, half - 1], du[:, HEAD_ROWS:, half] = du[:, HEAD_ROWS:, half - 2], du[:, HEAD_ROWS:, half + 1]
    n = np.empty_like(grid)
    # Rows run downwards and columns to the right, so dv x du points out.
    n[0] = dv[1] * du[2] - dv[2] * du[1]
    n[1] = dv[2] * du[0] - dv[0] * du[2]
    n[2] = dv[0] * du[1] - dv[1] * du[0]
    n *= 1 / (np.sqrt(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + np.float32(1e-9))
    return n


def _front_z(rest: Array, x: float, y: float) -> float:
    """Depth of the face's surface at (x, y)."""
    face = rest[FACE_ROWS]
    distance = (face[..., 0] - x) ** 2 + (face[..., 1] - y) ** 2 + (face[..., 2] < 2) * 100.0
    return float(face[..., 2].flat[int(np.argmin(distance))])


def _bump(rows: Array, center: float, width: float) -> Array:
    return np.exp(-0.5 * ((rows - center) / width) ** 2)
