"""What surrounds the face: backgrounds, clothes, glasses, hats, things in front of it.

All are drawn with OpenCV into float32 images [S, S, 3] 0..1 as displayed. `project` maps points [n, 3] of the head
frame (cm) to (x, y in pixels, depth).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from facelib.synthesis.morphable.raster import Visible

Array = npt.NDArray[Any]
Projection = Callable[[Array], Array]
_SHIFT = 4


def paint_background(rng: np.random.Generator, size: int) -> Array:
    """A plausible background [S, S, 3]: wall, blurred room or crowd, outdoors, texture."""
    kind = rng.integers(0, 8)
    small = 48
    base, other = _color(rng), _color(rng)
    ramp = np.linspace(0, 1, small, dtype=np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    plane = 0.5 + 0.5 * (np.cos(angle) * (ramp[None] - 0.5) + np.sin(angle) * (ramp[:, None] - 0.5)) * 1.6
    image = base + plane[..., None].astype(np.float32) * (other - base) * rng.uniform(0.1, 1.0)
    if kind == 1:
        image[int(small * rng.uniform(0.3, 0.7)) :] = _color(rng) * 0.7
        image += 0.05 * rng.standard_normal((small, small, 1), dtype=np.float32)
    if kind >= 2:
        for _ in range(int(rng.integers(2, 16))):
            _shape(rng, image, small)
    if kind in (3, 5):
        image += (
            cv2.resize(rng.standard_normal((9, 9), dtype=np.float32), (small, small), interpolation=cv2.INTER_CUBIC)[
                ..., None
            ]
            * 0.08
        )
    if kind == 4:
        period = rng.uniform(3, 12)
        image *= (1 + 0.2 * np.sign(np.sin(np.arange(small) * 2 * np.pi / period))).astype(np.float32)[None, :, None]
    if rng.random() < 0.7:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 3.0)))
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    if kind in (0, 6):
        grain = rng.standard_normal((size // 2, size // 2), dtype=np.float32) * float(rng.uniform(0.01, 0.06))
        image += cv2.resize(grain, (size, size))[..., None]
    return np.clip(image * float(rng.uniform(0.6, 1.15)), 0, 1)


def paint_clothes(image: Array, rng: np.random.Generator, project: Projection, light: Array, k: float) -> None:
    """Shoulders and collar, drawn before the head."""
    color = _color(rng) * rng.uniform(0.3, 1.1)
    wide, top = 17 + 3 * rng.random(), -17.0 - 2 * rng.random()
    xs = np.array([-1.2, -1, -0.75, -0.35, 0, 0.35, 0.75, 1, 1.2]) * wide
    ys = top + np.array([-30, -6, -2.6, 0.3, 1.0, 0.3, -2.6, -6, -30])
    outline = project(np.stack([xs, ys, np.full(9, -2.0)], -1))[:, :2]
    size = image.shape[0]
    outline = np.concatenate([outline, [[outline[-1, 0], size + 9], [outline[0, 0], size + 9]]])
    _fill(image, outline, color * light)
    if rng.random() < 0.45:
        neck = project(np.array([[-6.0, top + 0.5, 3], [0, top - 8 - 4 * rng.random(), 5], [6.0, top + 0.5, 3]]))[:, :2]
        shirt = np.clip(_color(rng) * 1.2 + 0.1, 0, 1) if rng.random() < 0.5 else np.array([0.85, 0.85, 0.86])
        _fill(image, neck, shirt * light)
        if rng.random() < 0.6:
            tie = project(np.array([[-1.0, top - 1, 5], [1.0, top - 1, 5], [2.0, top - 20, 6], [-2.0, top - 20, 6]]))[
                :, :2
            ]
            _fill(image, tie, _color(rng) * 0.7 * light)
    if rng.random() < 0.3:
        stripes = 1 + 0.25 * np.sign(np.sin(np.arange(size) / (k * rng.uniform(0.3, 1.2)))).astype(np.float32)
        low = int(np.clip(outline[4, 1], 0, size - 1))
        image[low:] *= stripes[low:, None, None] if rng.random() < 0.5 else stripes[None, :, None]


def draw_glasses(
    image: Array,
    visible: Visible,
    p: dict[str, float],
    rng: np.random.Generator,
    style: Array,
    project: Projection,
    k: float,
    depth_z: float,
) -> None:
    """Glasses on the nose: frame, bridge, temples, tint and reflection. `style`: 4 numbers of the person and today."""
    size = image.shape[0]
    half_w = 2.35 + 0.25 * style[0]
    half_h = half_w * float(np.clip(0.68 + 0.16 * style[1], 0.42, 1.0))
    square = 2.0 + 2.2 * max(0.0, float(style[2]))
    y0, z0 = p["eye_y"] - 0.25, depth_z + 1.5
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cos, sin = np.cos(angle), np.sin(angle)
    ex = np.sign(cos) * np.abs(cos) ** (2 / square) * half_w
    ey = np.sign(sin) * np.abs(sin) ** (2 / square) * half_h
    center = max(p["eye_x"] + 0.05, half_w + 0.75)
    thick = float(np.exp(-1.8 + 0.45 * style[3])) * k
    dark = _color(rng) * 0.25 if rng.random() < 0.7 else np.clip(_color(rng) * 0.9, 0, 1)
    rims = []
    for side in (-1, 1):
        x = side * center + ex
        z = z0 - 0.03 * (np.abs(x) - 2) ** 2
        rims.append(project(np.stack([x, y0 + ey, z], -1)))
    layer = np.zeros((size, size), np.uint8)
    for rim in rims:
        _draw_lens(image, rim[:, :2], rng, dark, sun=bool(style[3] > 2.0))
        cv2.polylines(layer, [_fixed(rim[:, :2])], True, 255, max(1, round(thick)), cv2.LINE_AA, _SHIFT)
    bridge = project(
        np.array([[-(center - half_w), y0 + 0.35, z0], [0, y0 + 0.6, z0 + 0.15], [center - half_w, y0 + 0.35, z0]])
    )
    cv2.polylines(layer, [_fixed(bridge[:, :2])], False, 255, max(1, round(thick)), cv2.LINE_AA, _SHIFT)
    for side in (-1, 1):
        start = np.array([side * (center + half_w), y0 + 0.4, z0 - 0.9])
        end = np.array([side * 7.75, y0 + 0.5, -0.5])
        temple = project(start + np.linspace(0, 1, 24)[:, None] * (end - start))
        _draw_visible(layer, temple, visible, max(1, round(thick * 0.8)))
    strength = 1.0 if thick >= 1 else max(0.45, thick)
    alpha = layer.astype(np.float32)[..., None] / 255 * strength
    image += alpha * (dark - image)


def _draw_lens(image: Array, rim: Array, rng: np.random.Generator, dark: Array, sun: bool) -> None:
    """Tint and sometimes a reflection inside a rim [n, 2]."""
    size = image.shape[0]
    box, lens = _cover(rim, size)
    if lens is None:
        return
    part, alpha = image[box], lens[..., None]
    tint = 0.9 if sun else 0.05 + 0.1 * float(rng.random()) ** 3
    part += alpha * np.float32(tint) * (dark * 0.5 + 0.02 - part).astype(np.float32)
    if rng.random() < 0.35:
        slope = np.linspace(0, 1, size, dtype=np.float32)
        wave, tilt, start = rng.uniform(4, 14), rng.uniform(3, 9), rng.uniform(0, 6)
        glare = np.clip(np.sin(slope[None, box[1]] * wave + slope[box[0], None] * tilt + start) - 0.6, 0, 1)
        part += alpha * glare[..., None].astype(np.float32) * float(rng.uniform(0.1, 0.9))


def _draw_visible(layer: Array, points: Array, visible: Visible, thickness: int) -> None:
    """A line's segments that are not behind the head."""
    size = layer.shape[0]
    xy = np.clip(points[:, :2].astype(int), 0, size - 1)
    seen = points[:, 2] < visible.depth[xy[:, 1], xy[:, 0]] + 0.6
    for a in range(len(points) - 1):
        if seen[a] and seen[a + 1]:
            cv2.polylines(layer, [_fixed(points[a : a + 2, :2])], False, 255, thickness, cv2.LINE_AA, _SHIFT)


def draw_hat(
    image: Array, visible: Visible, skull: Array, rng: np.random.Generator, project: Projection, light: Array
) -> None:
    """Cap, beanie, headscarf or headband: a shell above a line, and a brim."""
    kind = int(rng.integers(0, 4))
    color = _color(rng) * float(rng.uniform(0.3, 1.1))
    line = float(rng.uniform(4.5, 6.5))
    ring = int(np.argmin(np.abs(skull[:, 64, 1] - line)))
    center = np.array([0, 0, -1.0])
    grow = 1.0 + float(rng.uniform(0.08, 0.16))
    shell = (skull[: ring + 1 : 3] - center) * np.array([grow, 1.0, grow]) + center
    shell[..., 1] = line + (shell[..., 1] - line) * float(rng.uniform(1.05, 1.3))
    if kind == 3:
        shell = shell[-5:]
    points = project(shell.reshape(-1, 3))
    hull = cv2.convexHull(points[:, :2].astype(np.float32)).reshape(-1, 2)
    if kind == 3:
        front = project(shell[:, 24:105].reshape(-1, 3))[:, :2]
        hull = cv2.convexHull(front.astype(np.float32)).reshape(-1, 2)
    box, mask = _cover(hull, image.shape[0])
    if mask is None:
        return
    low = project(np.array([[0, line, 9.0]]))[0, :2]
    top = project(np.array([[0, 14.0, 0.0]]))[0, :2]
    along = top - low
    yy, xx = np.mgrid[box].astype(np.float32)
    across = ((xx - low[0]) * -along[1] + (yy - low[1]) * along[0]) / (np.hypot(*along) + 1e-6) ** 2
    shade = np.clip(1.05 - 0.55 * np.abs(across + 0.1) ** 1.5, 0.4, 1.1)
    if rng.random() < 0.4:
        shade = shade * (1 + 0.15 * np.sin(across * rng.uniform(20, 60)))
    image[box] += mask[..., None] * ((color * light)[None, None] * shade[..., None] - image[box])
    if kind == 0:
        a = np.linspace(-1.25, 1.25, 24)
        reach = float(rng.uniform(3.5, 5.5))
        back = np.stack([7.6 * np.sin(a), np.full(24, line + 0.2), 9.0 * np.cos(a)], -1)
        brim = back + np.stack([0 * a, -0.04 * reach * np.cos(a), reach * np.cos(a * 0.9)], -1)
        polygon = np.concatenate([project(back)[:, :2], project(brim)[::-1, :2]])
        _fill(image, polygon, color * light * 0.7)


def draw_occluder(image: Array, rng: np.random.Generator, project: Projection, k: float) -> None:
    """Something before the lower or outer face: a microphone, a hand, a scarf, a blurred thing in the foreground."""
    size = image.shape[0]
    kind = int(rng.integers(0, 4))
    if kind == 0:
        head = project(np.array([[rng.uniform(-4, 4), rng.uniform(-14, -9.0), 12.0]]))[0, :2]
        _ellipse(image, head, (1.9 * k, 2.3 * k), rng.uniform(-30, 30), np.array([0.06, 0.06, 0.07]))
        _ellipse(image, head - 0.5 * k, (0.7 * k, 0.9 * k), 0, np.array([0.2, 0.2, 0.2]))
        end = head + np.array([rng.uniform(-4, 4), 12]) * k
        layer = image.copy()
        cv2.line(
            layer,
            head.astype(int).tolist(),
            end.astype(int).tolist(),
            (0.08, 0.08, 0.09),
            max(1, int(1.2 * k)),
            cv2.LINE_AA,
        )
        image[...] = layer
    elif kind == 1:
        side = rng.choice([-1.0, 1.0])
        tone = np.array([0.78, 0.58, 0.47]) * rng.uniform(0.4, 1.1)
        for finger in range(4):
            at = project(np.array([[side * (4.6 + 0.2 * finger), -11.5 + 1.7 * finger, 8.0]]))[0, :2]
            _ellipse(image, at, (3.0 * k, 0.95 * k), -side * (35 - 6 * finger), tone * (0.86 + 0.05 * finger))
    elif kind == 2:
        y = rng.uniform(-13.5, -11.0)
        strip = project(np.array([[-9, y, 6], [0, y - 1.5, 9], [9, y, 6], [11, y - 10, 6], [-11, y - 10, 6]]))[:, :2]
        _fill(image, strip, _color(rng) * rng.uniform(0.4, 1))
    else:
        edge = rng.uniform(0.0, 0.22) * size
        mask = np.zeros((size, size), np.float32)
        side = int(rng.integers(0, 3))
        if side == 0:
            mask[:, : int(edge)] = 1
        elif side == 1:
            mask[:, size - int(edge) :] = 1
        else:
            mask[size - int(edge) :] = 1
        mask = cv2.GaussianBlur(mask, (0, 0), 0.03 * size)[..., None]
        image += mask * (_color(rng) - image)


def _shape(rng: np.random.Generator, image: Array, size: int) -> None:
    color = _color(rng).tolist()
    x, y = rng.uniform(-5, size + 5, 2)
    w, h = rng.uniform(2, size * 0.45, 2)
    if rng.random() < 0.5:
        cv2.rectangle(image, (int(x - w / 2), int(y - h / 2)), (int(x + w / 2), int(y + h / 2)), color, -1)
    else:
        cv2.ellipse(
            image, (int(x), int(y)), (int(w / 2) + 1, int(h / 2) + 1), float(rng.uniform(0, 180)), 0, 360, color, -1
        )


def _color(rng: np.random.Generator) -> Array:
    """A color as rooms, clothes and gardens have: mostly dull, sometimes strong."""
    value = rng.beta(1.3, 1.6)
    saturation = rng.beta(1.0, 4.0)
    # Wood, skin and brick, sky and leaves are common; violet is not.
    hue = rng.choice(np.array([0.35, 0.7, 1.1, 2.0, 3.6, 4.0, 5.5])) + rng.normal() * 0.35
    wheel = 0.5 + 0.5 * np.cos(hue - np.array([0.0, 2.0944, 4.18879]))
    return (value * (1 - saturation + saturation * wheel)).astype(np.float32)


def _fill(image: Array, polygon: Array, color: Array) -> None:
    """Fill a polygon [n, 2], smooth-edged, in place."""
    box, mask = _cover(polygon, image.shape[0])
    if mask is not None:
        image[box] += mask[..., None] * (np.clip(color, 0, 1).astype(np.float32) - image[box])


def _cover(polygon: Array, size: int) -> tuple[tuple[slice, slice], Array | None]:
    """The box of a polygon within the image and its cover there, 0..1; None when it lies outside."""
    low = np.clip(np.floor(polygon.min(0)).astype(int) - 1, 0, size)
    high = np.clip(np.ceil(polygon.max(0)).astype(int) + 2, 0, size)
    box = (slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])))
    if (high <= low).any():
        return box, None
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(mask, [_fixed(polygon - low)], 255, cv2.LINE_AA, _SHIFT)
    return box, mask.astype(np.float32) / 255


def _ellipse(image: Array, center: Array, axes: tuple[float, float], angle: float, color: Array) -> None:
    t = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
    _fill(image, np.stack([center[0] + c * x - s * y, center[1] + s * x + c * y], -1), color)


def _fixed(points: Array) -> Array:
    """Pixel coordinates for OpenCV's drawing with sub-pixel shift."""
    return np.round((np.clip(points, -4000, 4000) - 0.5) * (1 << _SHIFT)).astype(np.int32)
