"""Eyes and mouth, painted per pixel from the resting head's coordinates, so that they stay sharp and move with the
skin.

The eye's aperture is the region between two lid curves; lids close by moving the curves. The mouth's slit is a band
of the resting face which the jaw's field stretches: teeth and tongue appear inside it.

Shapes: h, w a region of the image; colors RGB 0..1 as displayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable.traits import Traits

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EyeState:
    """openness 0 (shut) .. 1.3; gaze in iris radii, right and up; shadow color and strength of make-up 0..1."""

    openness: float
    gaze: tuple[float, float]
    liner: float
    shadow: float
    shadow_color: Array
    light_side: float


@dataclass(frozen=True)
class MouthState:
    """gap: how far the jaw has fallen (cm); teeth 0..1; lips' color; smile -1..1."""

    gap: float
    teeth: float
    lips: Array
    gloss: float


def iris_color(level: float, hue: float) -> Array:
    """Iris, RGB 0..1: blue, gray, green, hazel, brown to black with `level` (sigma)."""
    at = [-3.0, -1.6, -0.9, -0.2, 0.6, 2.0]
    red, green, blue = [96, 112, 118, 128, 92, 42], [140, 140, 138, 98, 60, 28], [178, 160, 112, 56, 34, 20]
    color = np.array([np.interp(level, at, channel) for channel in (red, green, blue)], np.float32) / 255
    return np.clip(color * (1 + 0.08 * hue), 0.03, 1)


def paint_eye(albedo: Array, x: Array, y: Array, side: float, t: Traits, p: dict[str, float], state: EyeState) -> Array:
    """Paint one eye into albedo [h, w, 3] at resting coordinates x, y [h, w] cm (in place); returns the wet region
    [h, w].
    """
    width, height = p["eye_w"], p["eye_h"]
    outward = (x * side - p["eye_x"]) / width
    dy = y - p["eye_y"] - np.tan(p["eye_tilt"]) * (x * side - p["eye_x"])
    fold = max(0.0, t["eye_fold"])
    # Almond: the highest point of the upper lid lies toward the nose, the lowest of the lower lid toward the temple.
    span = np.clip(1 - np.abs(outward) ** (2.3 - 0.25 * np.clip(t["eye_round"], -1.5, 1.5)), 0, 1)
    upper = height * 1.18 * state.openness * span * (1 - 0.14 * outward) - 0.05
    upper -= 0.07 * max(0.0, t["lid_hood"]) * np.clip(outward + 0.2, 0, 1) + 0.04 * fold * np.clip(-outward, 0, 1)
    lower = (
        -height * (0.72 + 0.07 * t["lower_lid"]) * span * (1 + 0.16 * outward) * min(1.0, 0.35 + 0.65 * state.openness)
        - 0.05
    )
    soft = 0.07
    inside = np.clip((upper - dy) / soft, 0, 1) * np.clip((dy - lower) / soft, 0, 1) * (np.abs(outward) < 1.02)

    _paint_lids(albedo, outward, dy, upper, lower, t, p, state)
    ball = np.empty_like(albedo)
    shade = 0.74 - 0.16 * np.abs(outward) ** 2
    ball[...] = shade[..., None] * np.array([0.93, 0.88, 0.86], np.float32)
    ball[..., 1:] *= (1 - 0.16 * np.clip(-outward - 0.72, 0, 0.3) / 0.3)[..., None]
    radius = 0.60 * (1 + 0.04 * t["iris_size"]) * (1 + 0.1 * max(0.0, (12 - t.age) / 12))
    ix = x * side - p["eye_x"] - side * state.gaze[0] * 0.5 + 0.04
    iy = y - p["eye_y"] - 0.09 - state.gaze[1] * 0.35
    r = np.sqrt(ix * ix + iy * iy) / radius
    iris = iris_color(t["eye_color"], t["hair_red"])
    ring = np.clip(1.05 - 0.75 * np.clip((r - 0.72) / 0.3, 0, 1) + 0.25 * np.clip(0.6 - r, 0, 1), 0.2, 1.3)
    cover = np.clip((1.0 - r) / 0.14 + 0.5, 0, 1)
    ball += cover[..., None] * (iris * ring[..., None] - ball)
    pupil = np.clip((0.40 - r) / 0.12 + 0.5, 0, 1)
    ball *= 1 - 0.93 * pupil[..., None]
    # The upper lid and lashes shade the ball.
    ball *= np.clip(0.55 + 1.6 * (upper - dy), 0.42, 1.0)[..., None]
    albedo += inside[..., None] * (ball - albedo)
    lash = np.clip(1 - np.abs(dy - upper) / (0.085 + 0.05 * state.liner), 0, 1) * (np.abs(outward) < 1.08)
    lash *= 0.55 + 0.35 * (outward > 0) + 0.5 * state.liner
    low_lash = (
        np.clip(1 - np.abs(dy - lower + 0.03) / 0.06, 0, 1)
        * (np.abs(outward) < 1.0)
        * (0.22 + 0.5 * state.liner * (outward > 0))
    )
    albedo *= 1 - np.clip(np.maximum(lash, low_lash), 0, 0.92)[..., None]
    glint_x, glint_y = ix - side * state.light_side * 0.2, iy - 0.2
    glint = inside * np.clip(1.5 - (glint_x**2 + glint_y**2) / 0.014, 0, 1) * (cover > 0)
    return glint.astype(np.float32)


def _paint_lids(
    albedo: Array,
    outward: Array,
    dy: Array,
    upper: Array,
    lower: Array,
    t: Traits,
    p: dict[str, float],
    state: EyeState,
) -> None:
    """Crease of the upper lid, lid shade and make-up, in place."""
    near = np.clip(1.25 - np.abs(outward + 0.02) ** 3, 0, 1)
    fold = float(np.clip(t["eye_fold"], -1, 2.5))
    distance = 0.30 + 0.07 * t["lid_hood"] * -1.0 - 0.10 * fold + 0.16 * max(0.0, 1 - state.openness)
    if distance > 0.07:
        strength = 0.42 * np.clip(1 - 0.35 * max(0.0, fold), 0.1, 1)
        crease = np.exp(-0.5 * ((dy - upper - distance * (0.8 + 0.2 * outward)) / 0.075) ** 2) * near * strength
        albedo *= 1 - np.clip(crease, 0, 0.7)[..., None] * np.array([0.85, 1.0, 1.0], np.float32)
    above = np.clip((dy - upper) / 0.1 + 0.5, 0, 1)
    lid = above * np.exp(-np.clip(dy - upper, 0, None) / 0.5) * near
    albedo *= 1 - (0.08 * lid)[..., None]
    if state.shadow > 0.02:
        paint = above * np.exp(-((np.clip(dy - upper, 0, None) / 0.75) ** 2)) * near * state.shadow
        albedo += paint[..., None] * (state.shadow_color - albedo)
    if fold > 0.6:
        inner = np.exp(-0.5 * (((outward + 1.02) / 0.2) ** 2 + (dy / 0.28) ** 2)) * 0.16 * fold
        albedo *= 1 - inner[..., None] * 0.5


def paint_mouth(
    albedo: Array, x: Array, y: Array, deformed_y: Array, t: Traits, p: dict[str, float], state: MouthState
) -> Array:
    """Paint the lips and what is between them into albedo [h, w, 3] (in place); returns the glossy region [h, w]."""
    width, my = p["mouth_w"], p["mouth_y"]
    s = x / width
    across = np.abs(s)
    dy = y - my + 0.05 * np.sin(3.0 * s) * 0.3
    span = np.sqrt(np.clip(1 - s * s, 0, 1))
    wave = 0.07 * np.exp(-((s / 0.22) ** 2)) - 0.05 * np.exp(-(((across - 0.5) / 0.22) ** 2))
    slit = 0.26 * span * min(1.0, state.gap / 0.7)
    bow = 1 - (0.20 + 0.06 * t["cupid"]) * np.exp(-((s / 0.13) ** 2)) + 0.06 * np.exp(-(((across - 0.22) / 0.15) ** 2))
    top = p["lip_u"] * bow * np.clip(1 - across**1.7, 0, 1) + 0.03
    low = -p["lip_l"] * np.clip(1 - across**2.3, 0, 1) * (0.85 + 0.15 * np.cos(2.6 * s)) - 0.03
    soft = 0.11
    inside = (
        np.clip((top - dy) / soft + 0.5, 0, 1)
        * np.clip((dy - low) / soft + 0.5, 0, 1)
        * np.clip((1.02 - across) / 0.08, 0, 1)
    )
    lips = state.lips * np.where(dy > 0, 0.88, 1.04)[..., None]
    lips = lips * (1 + 0.05 * np.sin(x * 11.0) * span)[..., None]
    albedo += (0.85 * inside)[..., None] * (lips - albedo)
    # The line where the lips meet, or the open mouth.
    center = dy - wave * (1 - min(1.0, state.gap / 0.5))
    line = np.exp(-0.5 * (center / 0.065) ** 2) * np.clip((1.1 - across) / 0.2, 0, 1)
    albedo *= 1 - (0.68 * (1 - min(1.0, state.gap / 0.6)) * line)[..., None]
    corner = np.exp(-0.5 * (((across - 1.02) / 0.09) ** 2 + (dy / 0.16) ** 2))
    albedo *= 1 - (0.35 * corner)[..., None]
    if state.gap > 0.05:
        _paint_inside(albedo, x, s, dy, deformed_y, slit, t, p, state)
    shine = inside * np.exp(-0.5 * (((dy + 0.45 * p["lip_l"]) / 0.14) ** 2 + (s / 0.5) ** 2)) * state.gloss
    return shine.astype(np.float32)


def _paint_inside(
    albedo: Array,
    x: Array,
    s: Array,
    dy: Array,
    deformed_y: Array,
    slit: Array,
    t: Traits,
    p: dict[str, float],
    state: MouthState,
) -> None:
    hole = np.clip((slit - np.abs(dy)) / 0.045 + 0.5, 0, 1) * np.clip(slit / 0.05, 0, 1)
    cavity = np.empty_like(albedo)
    cavity[...] = np.array([0.20, 0.07, 0.07], np.float32)
    # Upper teeth hang from the skull, lower teeth and tongue go with the jaw.
    upper_edge = p["mouth_y"] + 0.32
    down = upper_edge - deformed_y
    curve = 1 - 0.42 * np.abs(s) ** 2
    teeth = (
        np.clip(((0.98 + 0.03 * t["gap_teeth"]) * curve - down) / 0.07, 0, 1)
        * np.clip((0.93 - np.abs(s)) / 0.15, 0, 1)
        * state.teeth
    )
    ivory = np.array([0.90, 0.86, 0.79], np.float32) * (1 - 0.04 * max(0.0, t["wrinkle"]))
    gaps = 1 - 0.16 * np.exp(-((((x * 1.18 + 0.5) % 1.0) - 0.5) ** 2) / 0.004)
    if t["gap_teeth"] > 1.3:
        gaps = gaps * (1 - 0.8 * np.exp(-((x / 0.06) ** 2)))
    cavity += teeth[..., None] * (ivory * (gaps * (1 - 0.45 * np.abs(s) ** 2))[..., None] - cavity)
    if state.gap > 1.0:
        bottom = p["mouth_y"] - 0.25 - state.gap
        tongue = np.exp(-0.5 * ((deformed_y - bottom) / (0.32 * state.gap)) ** 2) * np.clip(1 - s * s * 1.6, 0, 1) * 0.8
        cavity += (tongue * (1 - teeth))[..., None] * (np.array([0.55, 0.25, 0.25], np.float32) - cavity)
    albedo += hole[..., None] * (cavity - albedo)
