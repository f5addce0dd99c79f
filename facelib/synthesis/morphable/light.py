"""Light on the grid: key, fill, ambient and rim light with a cast shadow, in linear color.

Shading is done per vertex (the grid is finer than the skin's shading) and carried to the pixels by interpolation.

Shapes: V rows, U columns; colors linear RGB.
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
    key_color: Array
    fill: Array
    fill_color: Array
    ambient_up: Array
    ambient_down: Array
    hardness: float
    gloss: float


def make_light(z: Array) -> Light:
    """Light from 16 normal numbers: mostly soft and frontal from above, sometimes hard, from the side or below."""
    hard = float(ndtr(z[0]))
    spread = 0.40 + 0.62 * hard
    azimuth = np.clip(spread * z[1], -2.0, 2.0)
    elevation = np.clip(0.55 + 0.4 * z[2], -0.5, 1.3)
    strength = 0.55 + 1.25 * hard**1.5
    warm = 0.085 * z[3]
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


def shade(light: Light, normal: Array, open_sky: Array | float, shadow: Array | None) -> Array:
    """Diffuse light (three channels) and shine [V, U, 4] for normals [3, V, U] in the camera frame and occlusion [V,
    U].
    """
    direct, shine = _along(normal, light.key), np.maximum(_along(normal, _half_vector(light.key)), 0)
    wrap = np.float32(0.25 * (1 - 0.6 * light.hardness))
    direct = np.maximum((direct + wrap) / (1 + wrap), 0)
    fill = np.maximum(_along(normal, light.fill), 0)
    for _ in range(2):
        shine *= shine
    shine *= shine * shine
    if shadow is not None:
        direct *= shadow
        shine *= shadow
    sky = (np.float32(0.5) + np.float32(0.5) * normal[1]) * open_sky
    below = open_sky - sky
    out = np.empty((*normal.shape[1:], 4), np.float32)
    for c in range(3):
        out[..., c] = (
            direct * light.key_color[c]
            + fill * light.fill_color[c]
            + sky * light.ambient_up[c]
            + below * light.ambient_down[c]
        )
    out[..., 3] = shine
    return out


def cast_shadow(light: Light, position: Array, normal: Array, head_rows: int) -> Array:
    """How much key light reaches each vertex [V, U], 0..1, from a small depth map seen from the light; inputs [3, V,
    U].
    """
    right = np.cross(np.array([0.0, 1.0, 0.0]), light.key)
    right /= np.linalg.norm(right) + 1e-6
    frame = np.stack([right, np.cross(light.key, right), -light.key]).astype(np.float32)
    center = frame @ np.array([0, -2.0, 0], np.float32)
    scale = np.float32(_SHADOW_SIZE / 34.0)
    x, y, depth = (_along(position, axis) for axis in frame)
    x = (x - center[0]) * scale + np.float32(_SHADOW_SIZE / 2)
    y = (y - center[1]) * scale + np.float32(_SHADOW_SIZE / 2)
    buffer = depth_buffer(x[:head_rows], y[:head_rows], depth[:head_rows], _SHADOW_SIZE)
    buffer = cv2.erode(buffer, np.ones((2, 2), np.uint8))
    nearest = cv2.remap(buffer, x - 0.5, y - 0.5, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=1e6)
    cos = np.clip(_along(normal, light.key), 0.15, 1)
    bias = np.float32(0.3) + np.float32(0.5) * np.sqrt(1 - cos * cos) / cos
    lit = np.clip(1 - (depth - nearest - bias) * np.float32(1.4), 0, 1)
    lit[:head_rows] = cv2.GaussianBlur(lit[:head_rows], (0, 0), 1.2 + 2.2 * (1 - light.hardness))
    floor = np.float32(0.08 + 0.5 * (1 - light.hardness))
    return floor + (1 - floor) * lit


def _along(vectors: Array, axis: Array) -> Array:
    """Dot product [V, U] of vectors [3, V, U] with one axis [3]."""
    x, y, z = (np.float32(a) for a in axis)
    return vectors[0] * x + vectors[1] * y + vectors[2] * z


def _half_vector(key: Array) -> Array:
    """Between the key light and the viewer straight ahead."""
    half = key + np.array([0, 0, 1.0], np.float32)
    return half / (np.linalg.norm(half) + 1e-6)


def _direction(azimuth: float, elevation: float) -> Array:
    return np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)], np.float32
    )


def _temperature(warm: float) -> Array:
    """Color of light, linear: warm above 0, cold below."""
    warm = float(np.clip(warm, -0.35, 0.35))
    return np.array([1 + 0.9 * warm, 1 + 0.1 * warm, 1 - 1.1 * warm], np.float32)
