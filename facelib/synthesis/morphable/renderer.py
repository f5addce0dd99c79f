"""The built-in generator: codes and factors -> images, one image at a time over cached identities.

`MorphableGenerator` draws a procedural head: no scans, no weights, no outside data. Images are drawn one by one with
arrays that fit the cache (faster on a CPU than large batches), and every array has the same size whatever the batch,
so a row's bytes depend on the row alone.

Shapes: N batch, I = 128, F = 83, R image size, S size drawn before the reduction to R.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facelib.synthesis.generator import register_generator
from facelib.synthesis.latents import FACTORS, IDENTITY_SIZE, factor_slices, identity_latents, image_latents
from facelib.synthesis.morphable import scene
from facelib.synthesis.morphable.camera import Camera, make_camera
from facelib.synthesis.morphable.expression import ImageFactors, expression, landmarks_3d
from facelib.synthesis.morphable.face import FaceColors, Person
from facelib.synthesis.morphable.geometry import COLUMNS, HEAD_ROWS, ROWS, normals, shape_head
from facelib.synthesis.morphable.hair import HAIR_COLUMNS, HAIR_ROWS, Hair, make_hair, wears
from facelib.synthesis.morphable.light import Light, cast_shadow, make_light, shade
from facelib.synthesis.morphable.photo import develop
from facelib.synthesis.morphable.raster import Visible, rasterise
from facelib.synthesis.morphable.skin import paint_skin
from facelib.synthesis.morphable.traits import traits_of

Array = npt.NDArray[Any]
_HALF = COLUMNS // 2
_PATCHES = (
    (slice(0, HEAD_ROWS), slice(0, COLUMNS)),
    (slice(HEAD_ROWS, ROWS), slice(0, _HALF)),
    (slice(HEAD_ROWS, ROWS), slice(_HALF, COLUMNS)),
)


@register_generator("morphable")
class MorphableGenerator:
    """Procedural faces with known identity, expression, light, pose and the rest of a photograph.

    Args:
        image_size: R, 64..512 pixels.
        device: "cpu"; drawing runs on the CPU only (scale by processes).
        max_yaw_degrees, max_pitch_degrees, max_roll_degrees: bounds of the pose; the spread is about 0.3 of the bound.
        variation: 0..1.5 scales hats, occluders, blur, noise and other nuisances; 1 is the mixture found in the wild.
        eye_distance: mean distance of the eyes in a frontal image, as a fraction of R.

    Raises:
        ValueError: a setting out of range.
    """

    name = "morphable"
    # 2: noses and other middle-sized shapes vary more, light and tone less, as benchmarks/likeness.py measures people.
    version = 2
    identity_size = IDENTITY_SIZE
    identities: int | None = None
    license = "Drawn from random numbers without scans or weights; no person is depicted. Code: Apache-2.0."
    weights_hash: str | None = None

    def __init__(
        self,
        image_size: int = 128,
        device: str = "cpu",
        max_yaw_degrees: float = 60.0,
        max_pitch_degrees: float = 30.0,
        max_roll_degrees: float = 25.0,
        variation: float = 1.0,
        eye_distance: float = 0.255,
    ) -> None:
        _check("image_size", image_size, 64, 512)
        _check("max_yaw_degrees", max_yaw_degrees, 0, 85)
        _check("max_pitch_degrees", max_pitch_degrees, 0, 60)
        _check("max_roll_degrees", max_roll_degrees, 0, 90)
        _check("variation", variation, 0, 1.5)
        _check("eye_distance", eye_distance, 0.08, 0.4)
        if device != "cpu":
            raise ValueError(
                f"device is {device!r}: the morphable generator draws on the CPU, use 'cpu' and more processes"
            )
        self.image_size = int(image_size)
        self.device = device
        self.factors = dict(FACTORS)
        self.variation = float(variation)
        self.eye_distance = float(eye_distance)
        self._limits = np.deg2rad([max_yaw_degrees, max_pitch_degrees, max_roll_degrees])
        self._slices = factor_slices(self.factors)
        # Drawn larger and reduced: smooth edges. Large images are dense enough.
        self._size = int(self.image_size * (1.25 if self.image_size <= 256 else 1.0))
        self._texels = 2 if self._size <= 260 else 4

    def identity_codes(self, seed: int, identities: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Codes float32 [N, 128] of identities int64 [N]."""
        return identity_latents(seed, identities, self.identity_size)

    def image_factors(
        self, seed: int, identities: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Factors float32 [N, 83] of image `indices[n]` of `identities[n]`, int64 [N]."""
        return image_latents(seed, identities, indices, sum(self.factors.values()))

    def render(self, codes: npt.NDArray[np.float32], factors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """RGB uint8 [N, R, R, 3]. Rows with equal codes share one identity's painting: pass them together.

        Raises:
            ValueError: wrong shapes.
        """
        codes, factors = self._checked(codes, factors)
        out = np.empty((codes.shape[0], self.image_size, self.image_size, 3), np.uint8)
        for rows in _groups(codes):
            person = self._person(codes[rows[0]])
            for row in rows:
                out[row] = self._draw(person, factors[row])
        return out

    def landmarks(self, codes: npt.NDArray[np.float32], factors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Projected eye centers, nose tip and mouth corners float32 [N, 5, 2], (x, y) pixels; what is left in the
        image first.

        Raises:
            ValueError: wrong shapes.
        """
        codes, factors = self._checked(codes, factors)
        out = np.empty((codes.shape[0], 5, 2), np.float32)
        for rows in _groups(codes):
            traits = traits_of(codes[rows[0]])
            shape = shape_head(traits)
            for row in rows:
                z = ImageFactors(factors[row], self._slices)
                points = landmarks_3d(shape, expression(z, traits))
                # OpenCV's convention, as detectors use it: whole numbers are the middles of pixels.
                out[row] = self._camera(z, self.image_size).project(points)[:, :2] - 0.5
        return out

    def yaw_degrees(self, factors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Yaw [N] of factors [N, F], degrees; positive turns the nose to the image's right."""
        rotation = np.asarray(factors, np.float32)[:, self._slices["rotation"]].astype(np.float64)
        return np.rad2deg(self._angles(rotation)[:, 0]).astype(np.float32)

    def vertices(self, codes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Resting heads float32 [N, V, U, 3], cm: the identity's shape alone."""
        return np.stack([shape_head(traits_of(code)).rest for code in np.asarray(codes, np.float32)])

    def _checked(self, codes: Any, factors: Any) -> tuple[Array, Array]:
        codes, factors = np.asarray(codes, np.float32), np.asarray(factors, np.float32)
        size = sum(self.factors.values())
        if codes.ndim != 2 or codes.shape[1] != self.identity_size:
            raise ValueError(f"codes must be [N, {self.identity_size}], got shape {codes.shape}")
        if factors.shape != (codes.shape[0], size):
            raise ValueError(f"factors must be [{codes.shape[0]}, {size}] for these codes, got shape {factors.shape}")
        return codes, factors

    def _person(self, code: Array) -> Person:
        traits = traits_of(code)
        shape = shape_head(traits)
        return Person(traits, shape, paint_skin(traits, shape, self._texels))

    def _angles(self, rotation: Array) -> Array:
        """Yaw, pitch, roll [N, 3], radians, of rotation latents [N, 3]."""
        return self._limits * np.tanh(_stretch(np.clip(rotation, -3.5, 3.5)) * np.array([0.3, 0.25, 0.25]))

    def _camera(self, z: ImageFactors, size: int) -> Camera:
        distance = 9.0 + 95.0 * np.exp(0.35 * np.clip(z["distance"], -2, 2))
        scale = size * self.eye_distance / 6.3 * np.exp(0.07 * np.clip(z["scale"], -2.5, 2.5))
        shift = np.clip([z["shift_x"], z["shift_y"]], -2.5, 2.5) * 0.018 * size
        return make_camera(self._angles(z.rotation[None])[0], distance, scale, size / 2 + shift)

    def _draw(self, person: Person, factors: Array) -> npt.NDArray[np.uint8]:
        """One image."""
        z = ImageFactors(factors, self._slices)
        rng = np.random.Generator(np.random.Philox(key=[z.key, 3]))
        t, shape = person.traits, person.shape
        camera, size = self._camera(z, self._size), self._size
        k = camera.pixels_per_cm
        active = expression(z, t)
        grid = shape.moved(active)
        turned = camera.turn_head(grid)
        normal = normals(turned)
        light = make_light(z.illumination)
        shadow = cast_shadow(light, turned, normal, HEAD_ROWS)
        lit = shade(light, normal, shape.occlusion, shadow)
        up = max(1, int(np.ceil(k * 0.17 / 0.62)))
        visible = rasterise(camera.view(turned), size, up, _PATCHES)

        albedo, gloss = FaceColors(person, z, active, light, rng).paint(visible, grid, camera, float(self._texels))
        light_map = visible.sample(lit)
        exposure = _exposure(lit, person.skin.tone, z)
        linear = albedo ** np.float32(2.2) * light_map[..., :3]
        # Shine does not depend on the pigment, but the exposure does.
        oily = np.float32(light.gloss * 0.8 * float(person.skin.tone.mean()) ** 0.9)
        linear += (oily * light_map[..., 3] + gloss)[..., None]
        face = _tone_curve(linear * exposure)

        image = scene.paint_background(rng, size)
        ambient = np.clip((light.ambient_up + 0.5 * light.key_color) * exposure, 0.25, 1.3) ** 0.45
        scene.paint_clothes(image, rng, camera.project, ambient, k)
        alpha = _soft_mask(visible.mask)
        image += alpha[..., None] * (face - image)
        self._accessories(image, person, z, visible, camera, light, exposure, ambient, rng, k)
        if size != self.image_size:
            image = cv2.resize(image, (self.image_size, self.image_size), interpolation=cv2.INTER_AREA)
        return develop(image, z.photo(self.variation), rng)

    def _accessories(
        self, image: Array, person: Person, z: ImageFactors, visible: Visible, camera: Camera, light: Light,
        exposure: Array,
        ambient: Array, rng: np.random.Generator, k: float,
    ) -> None:  # fmt: skip
        t, shape = person.traits, person.shape
        nuisance = self.variation
        hair = make_hair(t, shape.skull, np.array([z[f"hair_{i}"] for i in range(6)]), rng)
        if hair is not None:
            _draw_hair(image, hair, visible, camera, light, exposure, self.image_size)
        if wears(t["glasses"] - 0.1, z["glasses"]):
            style = np.array(
                [
                    0.5 * t["eye_distance"] + 0.3 * z["glasses_style"],
                    t["hair_style"],
                    t["beard_kind"],
                    0.6 * t["pores"] + 0.9 * z["glasses_style"],
                ]
            )
            scene.draw_glasses(image, visible, shape.places, rng, style, camera.project, k, shape.places["eye_z"])
        if z["hat"] * nuisance > 1.55:
            scene.draw_hat(image, visible, shape.skull, rng, camera.project, ambient)
        if z["occluder"] * nuisance > 1.5:
            scene.draw_occluder(image, rng, camera.project, k)


def _draw_hair(
    image: Array, hair: Hair, visible: Visible, camera: Camera, light: Light, exposure: Array, size: int
) -> None:
    """Draw hair at `size` pixels, a little less than the face: its strands and edges are soft."""
    full = image.shape[0]
    turned = camera.turn(hair.grid)
    normal = normals(turned)
    values = shade(light, normal, 1.0, None)
    # Hair shines in a band across the strands.
    band = np.maximum(1 - np.abs(normal[1] - np.float32(0.45)) * np.float32(2.2), 0)
    values[..., 3] = (
        band * band * np.maximum(normal[0] * light.key[0] + normal[1] * light.key[1] + normal[2] * light.key[2], 0)
    )
    smaller = camera.scaled(size / full)
    up = max(2, int(np.ceil(smaller.pixels_per_cm * 0.42 / 0.9)))
    seen = rasterise(smaller.view(turned), size, up, ((slice(0, HAIR_ROWS), slice(0, HAIR_COLUMNS)),), insides=True)
    cover = seen.sample(np.stack([hair.cover, hair.strands], -1), 2.0)
    values = seen.sample(values)
    color = hair.color ** np.float32(2.2) * cover[..., 1:2] * values[..., :3] + 0.05 * (
        values[..., 3:] * cover[..., 1:2]
    )
    behind = cv2.resize(visible.depth, (size, size), interpolation=cv2.INTER_NEAREST)
    alpha = cover[..., 0] * seen.mask * np.clip((behind - seen.depth + 0.35) / 0.3, 0, 1)
    layer = np.concatenate(
        [_tone_curve(color * exposure), cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 0.5)[..., None]], -1
    )
    layer = cv2.resize(layer.astype(np.float32), (full, full), interpolation=cv2.INTER_LINEAR)
    image += layer[..., 3:] * (layer[..., :3] - image)


def _exposure(lit: Array, tone: Array, z: ImageFactors) -> Array:
    """Gain per channel that puts the face at a usual brightness and half undoes the light's color, as cameras do.

    Dark skin stays darker than light skin.
    """
    color = lit[40:130, 30:98, :3].mean((0, 1))
    level = float(color.mean())
    skin = float((tone ** np.float32(2.2)) @ np.array([0.3, 0.59, 0.11], np.float32))
    gain = 0.47 / (level * skin**0.55) * np.exp(0.13 * z["exposure"])
    return (gain * (level / color) ** 0.6).astype(np.float32)


def _tone_curve(linear: Array) -> Array:
    """Linear light -> display, with a soft shoulder."""
    value = np.maximum(linear, 0)
    value = np.where(value > 0.6, 0.6 + 0.4 * (1 - np.exp(-(value - 0.6) / 0.4)), value)
    return value ** np.float32(1 / 2.2)


def _soft_mask(mask: Array) -> Array:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 0.6)


def _stretch(x: Array) -> Array:
    """Heavier tails than normal: most faces look at the camera, some far away from it."""
    return x * (0.8 + 0.2 * np.abs(x))


def _groups(codes: Array) -> list[list[int]]:
    """Rows with byte-equal codes, in order of first appearance."""
    groups: dict[bytes, list[int]] = {}
    for row in range(codes.shape[0]):
        groups.setdefault(codes[row].tobytes(), []).append(row)
    return list(groups.values())


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: the morphable generator takes {low} to {high}")
