"""Light on the grid: key, fill, ambient and rim light with a cast shadow, in linear colour.

Shading is done per vertex (the grid is finer than the skin's shading) and carried to the pixels by interpolation.

Shapes: V rows, U columns; colours linear RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from facelib.synthesis.morphable.raster import depth_buffer

Array = npt.NDArray[Any]
_SHADOW_SIZE = 80


@dataclass(frozen=True)
class Light:
    """One image's illumination in the camera's frame (x right, y up, z to the camera)."""

    key: Array
    key_colour: Array
    fill: Array
    fill_colour: Array
    ambient_up: Array
    ambient_down: Array
    hardness: float
    gloss: float


def make_light(z: Array) -> Light:
    """Light from 16 normal numbers: mostly soft and frontal from above, sometimes hard, from the side or below."""
    hard = float(ndtr(z[0]))
    spread = 0.45 + 0.75 * hard
    azimuth = np.clip(spread * z[1], -2.0, 2.0)
    elevation = np.clip(0.55 + 0.4 * z[2], -0.5, 1.3)
    strength = 0.55 + 1.5 * hard**1.5
    warm = 0.10 * z[3]
    key = _direction(azimuth, elevation)
    fill = _direction(-np.sign(azimuth) * (0.7 + 0.4 * abs(z[4])), 0.2 + 0.3 * z[5])
    ambient = (0.62 - 0.42 * hard) * np.exp(0.25 * z[6])
    up = ambient * _temperature(-0.04 + 0.08 * z[7])
    down = ambient * (0.55 + 0.2 * np.tanh(z[8])) * _temperature(0.05 + 0.08 * z[9])
    fill_strength = 0.28 * np.exp(0.6 * z[10]) * (1.2 - hard)
    return Light(
        key, strength * _temperature(warm), fill, fill_strength * _temperature(0.1 * z[11]), up, down,
        float(np.clip(0.45 + 0.6 * hard + 0.1 * z[12], 0, 1)), float(0.10 * np.exp(0.6 * z[13])),
    )  # fmt: skip


def shade(light: Light, position: Array, normal: Array, open_sky: Array, shadow: Array | None) -> tuple[Array, Array]:
    """Diffuse light [V, U, 3] and shine [V, U] at positions (camera frame), normals [V, U, 3] and occlusion [V, U]."""
    nk, nf = normal @ light.key, normal @ light.fill
    wrap = 0.25 * (1 - 0.6 * light.hardness)
    direct = np.maximum((nk + wrap) / (1 + wrap), 0)
    if shadow is not None:
        direct *= shadow
    sky = 0.5 + 0.5 * normal[..., 1]
    out = direct[..., None] * light.key_colour + np.maximum(nf, 0)[..., None] * light.fill_colour
    out += open_sky[..., None] * (light.ambient_down + sky[..., None] * (light.ambient_up - light.ambient_down))
    # Half vector with the viewer straight ahead.
    half = light.key + np.array([0, 0, 1.0], np.float32)
    half /= np.linalg.norm(half) + 1e-6
    shine = np.maximum(normal @ half.astype(np.float32), 0)
    shine *= shine
    shine *= shine * shine
    shine *= shine
    if shadow is not None:
        shine *= shadow
    return out.astype(np.float32), shine.astype(np.float32)


def cast_shadow(light: Light, position: Array, normal: Array, head_rows: int) -> Array:
    """How much key light reaches each vertex [V, U], 0..1, from a small depth map seen from the light."""
    right = np.cross(np.array([0.0, 1.0, 0.0]), light.key)
    right /= np.linalg.norm(right) + 1e-6
    up = np.cross(light.key, right)
    frame = np.stack([right, up, -light.key]).astype(np.float32)
    seen = position @ frame.T
    centre = np.array([0, -2.0, 0], np.float32) @ frame.T
    scale = _SHADOW_SIZE / 34.0
    seen[..., :2] = (seen[..., :2] - centre[:2]) * scale + _SHADOW_SIZE / 2
    buffer = cv2.erode(depth_buffer(*np.moveaxis(seen[:head_rows], -1, 0), _SHADOW_SIZE), np.ones((2, 2), np.uint8))
    nearest = cv2.remap(
        buffer, seen[..., 0] - 0.5, seen[..., 1] - 0.5, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=1e6
    )
    cos = np.clip(normal @ light.key, 0.15, 1)
    bias = 0.3 + 0.5 * np.sqrt(1 - cos * cos) / cos
    lit = np.clip(1.0 - (seen[..., 2] - nearest - bias) * 1.4, 0, 1).astype(np.float32)
    lit[:head_rows] = cv2.GaussianBlur(lit[:head_rows], (0, 0), 1.2 + 2.2 * (1 - light.hardness))
    floor = 0.08 + 0.5 * (1 - light.hardness)
    return floor + (1 - floor) * lit


def _direction(azimuth: float, elevation: float) -> Array:
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )


def _temperature(warm: float) -> Array:
    """Colour of light, linear: warm above 0, cold below."""
    warm = float(np.clip(warm, -0.35, 0.35))
    return np.array([1 + 0.9 * warm, 1 + 0.1 * warm, 1 - 1.1 * warm], np.float32)
