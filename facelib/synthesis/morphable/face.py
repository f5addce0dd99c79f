"""The face's colors at the pixels: skin with today's beard and tan, eyes and mouth with make-up and expression.

Shapes: S image size; V rows, U columns of the atlas; colors RGB 0..1 as displayed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable import parts
from facelib.synthesis.morphable.camera import Camera
from facelib.synthesis.morphable.expression import ImageFactors, eye_openness
from facelib.synthesis.morphable.geometry import HeadShape
from facelib.synthesis.morphable.light import Light
from facelib.synthesis.morphable.motion import EXPRESSIONS
from facelib.synthesis.morphable.raster import Visible
from facelib.synthesis.morphable.skin import Skin
from facelib.synthesis.morphable.traits import Traits

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Person:
    """What all images of one identity share."""

    traits: Traits
    shape: HeadShape
    skin: Skin


@dataclass(frozen=True)
class FaceColors:
    """One image's face, before light. activations [K] of the expression fields."""

    person: Person
    factors: ImageFactors
    activations: Array
    light: Light
    random: np.random.Generator

    def paint(self, visible: Visible, grid: Array, camera: Camera, texels: float) -> tuple[Array, Array]:
        """Albedo [S, S, 3] and wet shine [S, S] of the head `grid` [3, V, U] where it is visible."""
        t, p = self.person.traits, self.person.shape.places
        albedo = self._skin(visible, texels)
        gloss = np.zeros(albedo.shape[:2], np.float32)
        k, gap = camera.pixels_per_cm, self._active("jaw")
        eye, mouth = self._states()
        rest = self.person.shape.rest
        # Resting x and y say what a pixel is, moved y and z where it is.
        coordinates = np.stack([rest[..., 0], rest[..., 1], grid[1], grid[2]], -1)

        def part(place: tuple[float, float, float], radius: float, painter: Callable[[Array, Array], Array]) -> None:
            region = _region(camera, np.array(place), radius, albedo.shape[0])
            if region is not None:
                values = _sample_region(visible, coordinates, region)
                near = visible.mask[region] & (values[..., 3] > 2)
                painted = albedo[region].copy()
                wet = painter(painted, values)
                np.copyto(albedo[region], painted, where=near[..., None])
                gloss[region] += wet * near

        for side in (-1.0, 1.0):

            def paint_eye(colors: Array, v: Array, side: float = side) -> Array:
                return parts.paint_eye(colors, v[..., 0], v[..., 1], side, t, p, eye) * np.float32(0.8)

            part((side * p["eye_x"], p["eye_y"], p["eye_z"]), 2.6 * k, paint_eye)

        def paint_mouth(colors: Array, v: Array) -> Array:
            return parts.paint_mouth(colors, v[..., 0], v[..., 1], v[..., 2], t, p, mouth)

        part((0.0, p["mouth_y"] - 0.4 * gap, 9.5), (p["mouth_w"] + 1.2 + 0.6 * gap) * k, paint_mouth)
        return np.clip(albedo, 0.004, 1), gloss

    def _active(self, name: str) -> float:
        return float(self.activations[EXPRESSIONS.index(name)])

    def _skin(self, visible: Visible, texels: float) -> Array:
        """Bare skin with as much beard, tan and flush as today, [S, S, 3]."""
        t, z, skin = self.person.traits, self.factors, self.person.skin
        layers = visible.sample(skin.layers, texels)
        albedo = np.ascontiguousarray(layers[..., :3])
        beard = float(np.clip(0.25 + 0.34 * t["beard_growth"] + 0.32 * z["beard"], 0, 1.0)) if t.male > -0.2 else 0.0
        if beard > 0.02:
            cover = np.clip(layers[..., 3:] * (beard * 1.15), 0, 0.93)
            albedo += cover * (skin.beard_color * np.float32(0.75 + 0.25 * beard) - albedo)
        tan = np.exp(0.06 * z["tan"])
        albedo *= np.array([tan**0.7, tan, tan * np.exp(0.02 * z["tan"])], np.float32)
        albedo[..., 1:] *= 1 - 0.02 * z["flush"]
        return albedo

    def _states(self) -> tuple[parts.EyeState, parts.MouthState]:
        """Lids, gaze, lips and make-up of this image."""
        t, z, rng = self.person.traits, self.factors, self.random
        made_up = max(0.0, 0.45 * t["makeup"] + 0.45 * z["makeup"] - 0.1) if t.male < 0 else 0.0
        paint = float(np.clip(made_up, 0, 1))
        gaze = (float(np.clip(0.35 * z.expression[8], -0.8, 0.8)), float(np.clip(0.22 * z.expression[9], -0.5, 0.5)))
        shadow = float(np.clip(0.4 * (made_up - 0.4), 0, 0.6))
        shadow_color = rng.uniform(0.15, 0.7, 3).astype(np.float32)
        openness = eye_openness(z, t, self.activations)
        eye = parts.EyeState(openness, gaze, paint, shadow, shadow_color, float(self.light.key[0]))
        lips = self.person.skin.lip_color
        if made_up > 0.3:
            stick = np.array([0.55, 0.12, 0.16], np.float32) * rng.uniform(0.6, 1.5)
            stick = stick + np.array([0.15, 0.1, 0.1], np.float32) * rng.random()
            lips = lips + float(np.clip(0.7 * (made_up - 0.3), 0, 0.85)) * (stick.astype(np.float32) - lips)
        teeth = float(np.clip(0.35 + 1.2 * self._active("smile") + 0.3 * z.expression[16], 0.0, 1))
        return eye, parts.MouthState(self._active("jaw"), teeth, lips, 0.05 + 0.2 * paint)


def _region(camera: Camera, point: Array, radius: float, size: int) -> tuple[slice, slice] | None:
    """The square of pixels round a projected point; None outside the image."""
    x, y = camera.project(point[None])[0, :2]
    x0, x1 = int(max(0, x - radius)), int(min(size, x + radius + 1))
    y0, y1 = int(max(0, y - radius)), int(min(size, y + radius + 1))
    if x1 - x0 < 2 or y1 - y0 < 2:
        return None
    return slice(y0, y1), slice(x0, x1)


def _sample_region(visible: Visible, grid: Array, region: tuple[slice, slice]) -> Array:
    u, v = np.ascontiguousarray(visible.u[region]), np.ascontiguousarray(visible.v[region])
    return cv2.remap(grid, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
