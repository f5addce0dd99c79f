"""Painted skin: one person's albedo texture, with brows, beard, wrinkles, freckles and marks.

Everything is painted where the resting head's coordinates (cm) put it, so it moves with the face. Colors are painted
as displayed (sRGB), the renderer turns them linear.

Shapes: T rows, W columns of the texture (a multiple of the atlas grid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable.geometry import COLUMNS, HEAD_ROWS, ROWS, HeadShape
from facelib.synthesis.morphable.traits import Traits

Array = npt.NDArray[Any]
_FACE = (slice(18, 146), slice(14, COLUMNS - 14))
_CREASE = np.array([1.0, 1.25, 1.35], np.float32)
_TONE_AT = np.array([-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.2])
_TONES = np.array([
    [240, 208, 190], [234, 197, 175], [224, 180, 153], [205, 155, 124], [164, 113, 83], [112, 74, 54], [66, 43, 33],
], np.float32) / 255  # fmt: skip


@dataclass(frozen=True)
class Skin:
    """layers [T, W, 4]: albedo without beard and beard cover, float32 0..1; colors RGB 0..1."""

    layers: Array
    beard_color: Array
    hair_color: Array
    lip_color: Array
    tone: Array


def paint_skin(traits: Traits, shape: HeadShape, scale: int) -> Skin:
    """Paint one person's skin at `scale` texels per vertex."""
    t, p = traits, shape.places
    tone, hair, rng = skin_tone(t["melanin"], t["redness"]), hair_color(t), t.random(1)
    layers = np.empty((ROWS * scale, COLUMNS * scale, 4), np.float32)
    layers[..., :3], layers[..., 3] = tone, 0
    layers[HEAD_ROWS * scale :, :, :3] *= np.array([1.0, 0.9, 0.88], np.float32)
    # Only the face has details; the rest of the texture is hair, neck and ears.
    face = layers[_FACE[0].start * scale : _FACE[0].stop * scale, _FACE[1].start * scale : _FACE[1].stop * scale]
    x, y, z = (_upscale(shape.rest[_FACE][..., c], scale) for c in range(3))
    skin = np.ascontiguousarray(face[..., :3])
    rows, columns = x.shape
    ax = np.abs(x)
    front = np.clip((z - 1.0) / 3.0, 0, 1)
    coarse, fine, hue = (
        _noise(rng, rows, columns, 10 * scale),
        _noise(rng, rows, columns, 2 * scale),
        _noise(rng, rows, columns, 16 * scale),
    )
    mottle = coarse * 0.030 + fine * 0.016 * (1 + 0.3 * t["pores"]) * front
    skin *= (1 + mottle)[..., None]
    skin *= 1 + hue[..., None] * np.array([0.008, -0.02, -0.012], np.float32)
    light = np.ones_like(x)
    fair = float(np.clip(0.5 - 0.25 * t["melanin"], 0.1, 1.1))

    def redden(amount: Array) -> None:
        skin[..., 0] *= 1 + 0.03 * amount
        skin[..., 1:] *= (1 - 0.13 * fair * amount)[..., None]

    def darken(amount: Array) -> None:
        np.multiply(light, 1 - np.clip(amount, 0, 0.8), out=light)

    def spot(cx: float, cy: float, sx: float, sy: float) -> Array:
        return np.exp(-0.5 * (((ax - cx) / sx) ** 2 + ((y - cy) / sy) ** 2)) * front

    blush = 0.7 + 0.35 * t["redness"]
    redden(
        blush * spot(4.0, p["nose_y"] + 0.2, 1.4, 1.1)
        + 0.9 * blush * spot(0, p["nose_y"], 0.9, 0.7)
        + 0.4 * spot(0, p["chin_y"] + 1.2, 1.2, 0.8)
    )
    # Sockets and the shadows under the eyes.
    darken((0.05 + 0.03 * max(0.0, t["eye_depth"])) * spot(p["eye_x"], p["eye_y"] + 0.5, 1.3, 0.7))
    darken((0.05 + 0.05 * max(0.0, t["bags"])) * spot(p["eye_x"] - 0.2, p["eye_y"] - 1.1, 1.1, 0.35))
    darken(0.08 * spot(p["eye_x"] - 1.5, p["eye_y"], 0.4, 0.5))
    _fold_lines(t, p, ax, y, front, darken, rng)
    _nostrils(t, p, ax, y, front, darken)
    # Folds are warmer than the skin: blue goes first.
    skin *= 1 - (1 - light)[..., None] * _CREASE
    np.maximum(skin, 0.02, out=skin)
    _marks(t, skin, x, y, z, rng, tone)
    _brows(t, p, skin, x, y, front, hair, rng)
    face[..., :3], face[..., 3] = np.clip(skin, 0.01, 1), _beard(t, p, x, y, z, rng, scale)
    gray = float(np.clip(0.38 * t["gray"] - 0.3, 0, 1))
    beard_color = hair * 0.85 * (1 - gray) + np.array([0.62, 0.61, 0.6], np.float32) * gray
    return Skin(layers, beard_color.astype(np.float32), hair, lip_color(t, tone), tone)


def skin_tone(melanin: float, redness: float) -> Array:
    """Skin color, RGB 0..1 as displayed."""
    tone = np.array([np.interp(melanin, _TONE_AT, _TONES[:, c]) for c in range(3)])
    tone[1:] *= 1 - 0.025 * redness
    tone[2] *= 1 - 0.02 * redness
    return np.clip(tone, 0, 1).astype(np.float32)


def hair_color(t: Traits, shift: float = 0.0, dyed: float = 0.0) -> Array:
    """Hair color, RGB 0..1 as displayed; `shift` lightens (sun, light, dye), gray comes with age."""
    level = t["hair_dark"] - shift
    dark = np.array([np.interp(level, [-2.5, -1.2, 0.0, 1.0, 2.5], values) for values in (
        [222, 176, 112, 66, 26], [192, 134, 78, 45, 21], [138, 84, 50, 32, 19],
    )]) / 255  # fmt: skip
    red = float(np.clip(0.45 * (t["hair_red"] - 1.0), 0, 0.8)) * float(level < 0.9) + dyed
    color = dark * (1 - red) + red * np.array([0.58, 0.27, 0.12]) * (0.6 + dark[0])
    gray = float(np.clip(0.42 * t["gray"] - 0.5, 0, 1)) * (1 - min(1.0, dyed * 3))
    return np.clip(color * (1 - gray) + np.array([0.70, 0.69, 0.68]) * gray, 0.04, 1).astype(np.float32)


def lip_color(t: Traits, tone: Array) -> Array:
    """Bare lips, RGB 0..1."""
    pale = tone * np.array([0.93, 0.68, 0.66], np.float32)
    strong = tone * np.array([0.82, 0.50, 0.52], np.float32)
    weight = float(np.clip(0.45 + 0.28 * t["lip_color"], 0, 1))
    return (pale * (1 - weight) + strong * weight).astype(np.float32)


def _upscale(plane: Array, scale: int) -> Array:
    """Values at vertices [V, U] -> texels [V * scale, U * scale]."""
    size = (plane.shape[1] * scale, plane.shape[0] * scale)
    return cv2.resize(np.ascontiguousarray(plane), size, interpolation=cv2.INTER_LINEAR)


def _noise(rng: np.random.Generator, rows: int, columns: int, cell: float) -> Array:
    """Smooth noise of about unit variance with features of `cell` texels."""
    small = rng.standard_normal((max(3, int(rows / cell) + 2), max(3, int(columns / cell) + 2)), dtype=np.float32)
    return cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC)


def _band(y: Array, low: float, high: float) -> slice:
    """Rows of the texture in which some texel lies between two heights."""
    rows = np.flatnonzero(((y > low) & (y < high)).any(1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)


def _fold_lines(
    t: Traits, p: dict[str, float], ax: Array, y: Array, front: Array, darken: Any, rng: np.random.Generator
) -> None:
    """Creases as dark soft lines: nose to mouth, mouth corners, forehead, crow's feet, frown, under the eyes."""
    ex, ey, my, mw = p["eye_x"], p["eye_y"], p["mouth_y"], p["mouth_w"]

    def line(along: Array, from_: float, to: float, across: Array, width: float, strength: float) -> None:
        if strength > 0.01:
            span = np.clip((along - from_) / 0.5, 0, 1) * np.clip((to - along) / 0.5, 0, 1)
            darken(strength * span * np.exp(-0.5 / width**2 * across * across) * front)

    top, bottom = p["nose_y"] + 0.2, my - 0.2
    share = (top - y) / (top - bottom)
    line(
        y,
        bottom - 0.4,
        top + 0.2,
        ax - (p["nose_w"] * 1.25 + (mw + 0.75 - p["nose_w"] * 1.25) * np.clip(share, 0, 1) ** 0.8),
        0.16,
        0.05 + 0.075 * t["naso_fold"],
    )
    line(y, my - 1.8, my + 0.1, ax - (mw + 0.25 + 0.15 * (my - y)), 0.14, 0.05 * t["sag"])
    wrinkle = t["wrinkle"]
    for k in range(4):
        start, reach = 1.2 + 0.95 * k + 0.35 * rng.standard_normal(), 3.4 + 0.8 * rng.standard_normal() - 0.3 * k
        height = (
            p["brow_y"]
            + start
            + 0.14 * np.cos(ax * (0.5 + 0.3 * rng.random()))
            + 0.06 * np.sin(ax * 2.3 + 6 * rng.random())
        )
        line(-ax, -reach, 1.0, y - height, 0.09, 0.045 * (wrinkle - 0.4 - 0.2 * k) * (0.6 + 0.8 * rng.random()))
    line(y, p["brow_y"] - 0.6, p["brow_y"] + 0.9, ax - 0.42, 0.09, 0.06 * (0.6 * wrinkle + 0.5 * t["glabella"] - 0.3))
    for k in (-1, 0, 1):
        line(ax, ex + 1.75, ex + 3.1, y - ey - 0.05 - k * 0.28 * (ax - ex - 1.2), 0.07, 0.06 * (wrinkle - 0.5))
    curve = ey - 1.45 + 0.16 * (ax - ex) ** 2
    line(ax, ex - 1.5, ex + 1.5, y - curve, 0.11, 0.05 + 0.05 * t["bags"])
    line(-ax, -1.3, 1.0, y - my + 1.72, 0.2, 0.05 + 0.02 * t["chin_forward"])
    line(y, p["chin_y"] + 0.3, p["chin_y"] + 1.8, ax, 0.12, 0.09 * (t["chin_width"] + 0.3 * t["chin_forward"] - 1.3))


def _nostrils(t: Traits, p: dict[str, float], ax: Array, y: Array, front: Array, darken: Any) -> None:
    x0, y0 = p["nose_w"] * 0.46, p["nose_y"] - 0.62
    darken(
        (0.5 + 0.06 * t["nostril"])
        * np.exp(-0.5 * (((ax - x0) / (0.22 + 0.03 * t["nostril"])) ** 2 + ((y - y0) / 0.12) ** 2))
        * front
    )
    darken(
        0.16 * np.exp(-0.5 * (((ax - p["nose_w"] * 1.1) / 0.14) ** 2 + ((y - p["nose_y"] + 0.3) / 0.42) ** 2)) * front
    )


def _marks(t: Traits, skin: Array, x: Array, y: Array, z: Array, rng: np.random.Generator, tone: Array) -> None:
    """Freckles, blotches of age, moles, and now and then a birthmark or scar."""
    rows, columns = x.shape
    front = np.clip((z - 2.0) / 3.0, 0, 1)
    if t["freckles"] > 0.7 and t["melanin"] < 0.8:
        grain = _noise(rng, rows, columns, 2.2) + 0.5 * _noise(rng, rows, columns, 22.0)
        middle = np.exp(-0.5 * ((np.abs(x) / 5.0) ** 2 + ((y + 2.2) / 3.0) ** 2))
        cover = np.clip(grain - 0.7, 0, 1) * middle * min(0.6, 0.22 * t["freckles"]) * front
        skin *= 1 - np.clip(cover, 0, 0.5)[..., None] * np.array([0.5, 0.8, 0.95], np.float32)
    if t["blotch"] > 0.8:
        patch = np.clip(_noise(rng, rows, columns, 14.0) - 1.0, 0, 1) * front * 0.08 * t["blotch"]
        skin *= 1 - np.clip(patch, 0, 0.4)[..., None] * np.array([0.6, 1.0, 1.1], np.float32)
    count = int(np.clip(round(0.4 + 1.3 * t["moles"]), 0, 5))
    for _ in range(count):
        cx, cy = rng.uniform(-5.5, 5.5), rng.uniform(-10.0, 5.5)
        size = 0.10 + 0.11 * rng.random() ** 2
        band = _band(y, cy - 0.6, cy + 0.6)
        spot = np.exp(-((((x[band] - cx) ** 2 + (y[band] - cy) ** 2) / size**2) ** 1.5)) * front[band]
        skin[band] *= 1 - (0.75 * spot)[..., None] * np.array([0.75, 0.95, 1.0], np.float32)
    if rng.random() < 0.06:
        cx, cy, sx, sy = rng.uniform(-5, 5), rng.uniform(-9, 6), rng.uniform(0.4, 1.5), rng.uniform(0.4, 1.5)
        mark = (
            np.exp(-((((x - cx) / sx) ** 2 + ((y - cy) / sy) ** 2) ** 2))
            * front
            * (1 + 0.3 * _noise(rng, rows, columns, 6.0))
        )
        skin *= 1 - np.clip(0.3 * mark, 0, 0.45)[..., None] * np.array([0.3, 1.0, 0.9], np.float32)
    if rng.random() < 0.08:
        cx, cy, angle = rng.uniform(-5, 5), rng.uniform(-9, 6), rng.uniform(0, np.pi)
        u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
        w = -(x - cx) * np.sin(angle) + (y - cy) * np.cos(angle)
        scar = np.exp(-((u / 1.0) ** 4) - (w / 0.12) ** 2) * front
        skin += (scar * 0.5)[..., None] * (np.array([0.86, 0.66, 0.62], np.float32) * (0.5 + 0.5 * tone) - skin)


def _brows(
    t: Traits, p: dict[str, float], skin: Array, x: Array, y: Array, front: Array, hair: Array, rng: np.random.Generator
) -> None:
    """Brows: a curve with an arch, a thickness that tapers outwards, hair-like noise."""
    band = _band(y, p["brow_y"] - 1.8, p["brow_y"] + 2.0)
    skin, x, y, front = skin[band], x[band], y[band], front[band]
    ax = np.abs(x)
    start = 1.1 + 0.2 * t["brow_gap"] + 0.1 * t["eye_distance"]
    length = 3.9 * np.exp(0.07 * t["brow_length"])
    s = np.clip((ax - start) / length, -0.3, 1.3)
    arch = 0.42 + 0.26 * t["brow_arch"]
    peak = 0.62
    bend = np.where(s < peak, 1 - ((s - peak) / peak) ** 2, 1 - 1.7 * ((s - peak) / (1 - peak)) ** 2)
    line = p["brow_y"] - 0.35 + arch * (bend - 0.25) + 0.16 * t["brow_tilt"] * (s - 0.4)
    thick = 0.34 * np.exp(0.27 * t["brow_thick"]) * np.interp(s, [0, 0.12, 0.6, 1.0], [0.75, 1.05, 0.85, 0.3])
    inside = np.clip((s + 0.03) / 0.1, 0, 1) * np.clip((1.02 - s) / 0.12, 0, 1)
    if t["brow_gap"] < -1.7:
        inside = np.maximum(inside, 0.5 * (ax < start + 0.2))
    cover = inside * np.exp(-(np.abs((y - line) / thick) ** 2.6)) * front
    cover *= np.clip(0.86 + 0.22 * _noise(rng, x.shape[0], x.shape[1], 2.5), 0.3, 1.1)
    dark = float(np.clip(0.70 + 0.13 * t["brow_dark"] + 0.06 * t["brow_thick"], 0.28, 0.95))
    color = np.minimum(hair * 0.62, np.array([0.45, 0.35, 0.27], np.float32))
    skin += np.clip(cover * dark, 0, 0.97)[..., None] * (color - skin)


def _beard(t: Traits, p: dict[str, float], x: Array, y: Array, z: Array, rng: np.random.Generator, scale: int) -> Array:
    """Where the beard grows when it grows, [T, W] 0..1; the image decides how long it is today."""
    if t.male < -0.2 or t.age < 17:
        return np.zeros(x.shape, np.float32)
    ax, my, mw, chin = np.abs(x), p["mouth_y"], p["mouth_w"], p["chin_y"]
    soft = 0.9
    kind = t["beard_kind"]
    line = np.interp(
        ax,
        [0, mw, mw + 1.6, 6.0, 7.4],
        [my - 1.1, my - 0.3, my + 1.3 + 0.5 * t["beard_growth"] * 0.5, my + 3.2, my + 6.0],
    )
    jaw = np.clip((line - y) / soft, 0, 1) * np.clip((z + 3.5) / 2, 0, 1) * np.clip((y - chin + 2.6) / 1.4, 0, 1)
    droop = 0.25 * (ax / mw) ** 2
    lip = np.clip((p["nose_y"] - 0.85 - droop - y) / 0.5, 0, 1) * np.clip((y - my - 0.2 + 1.2 * droop) / 0.35, 0, 1)
    lip *= np.clip((mw + 0.45 - ax) / 0.8, 0, 1) * (1 - 0.4 * np.exp(-((ax / 0.22) ** 2)))
    sides = (
        np.exp(-0.5 * ((ax - mw - 0.35) / 0.35) ** 2)
        * np.clip((my + 0.7 - y) / 0.6, 0, 1)
        * np.clip((y - my + 2.4) / 0.5, 0, 1)
    )
    goatee = np.exp(-((ax / (1.9 + 0.3 * t["chin_width"])) ** 4)) * np.clip((my - 1.0 - y) / soft, 0, 1)
    patch = 0.7 * np.exp(-((ax / 0.5) ** 2)) * np.clip((my - 0.9 - y) / 0.3, 0, 1) * np.clip((y - my + 2.0) / 0.4, 0, 1)
    if kind > 0.9:
        cover = np.maximum(lip, 0.12 * jaw)
    elif kind < -1.1:
        cover = np.maximum.reduce([lip * 0.9, goatee, sides * 0.55, 0.1 * jaw])
    elif kind < -0.7:
        cover = np.maximum.reduce([goatee, patch, 0.15 * jaw])
    else:
        cover = np.maximum.reduce([jaw, lip, patch, sides])
    cover *= np.clip(
        0.9 + 0.16 * _noise(rng, x.shape[0], x.shape[1], 3.0) + 0.12 * _noise(rng, x.shape[0], x.shape[1], 12.0),
        0.2,
        1.15,
    )
    return np.clip(cover, 0, 1).astype(np.float32)
