"""Hair: a shell round the skull that ends at a line drawn round the head, and hangs below it when long.

The edge height as a function of the angle round the head makes hairline, fringe, sideburns, length and baldness;
thickness and strand noise make volume, curls and wisps. The person has a tendency, the image decides (identities change
their hair).

Shapes: H rows, W columns of the hair grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from facelib.synthesis.morphable.geometry import column_angles
from facelib.synthesis.morphable.skin import hair_color
from facelib.synthesis.morphable.traits import Traits

Array = npt.NDArray[Any]
HAIR_ROWS, HAIR_COLUMNS = 72, 96


@dataclass(frozen=True)
class Hair:
    """grid [3, H, W] cm in the head frame; cover [2H, 2W] 0..1; strands [2H, 2W] brightness; color RGB 0..1."""

    grid: Array
    cover: Array
    strands: Array
    color: Array


def make_hair(t: Traits, skull: Array, noise: Array, rng: np.random.Generator) -> Hair | None:
    """Hair of one image from the person, the skull [rows, U, 3] and 6 normal numbers; None when there is none to
    see.
    """
    drift = noise
    restyle = 1.0 if drift[5] > 0.9 else 0.35
    bald = t["balding"] * float(np.clip(t.male, 0, 1)) * min(1.0, max(0.0, (t.age - 22) / 20)) * 1.5
    length = t["hair_length"] + restyle * 1.3 * drift[0] - 0.3
    if bald > 2.6 or length < -3.6:
        return None
    curl = float(np.clip(t["hair_curl"] + 0.3 * drift[3], -2, 3))
    angles = np.linspace(-np.pi, np.pi, HAIR_COLUMNS)
    edge = _edge(t, angles, length, bald, curl, drift, rng)
    thick = (0.95 + 0.7 * float(np.clip(0.5 * length + 1.2, 0, 2)) + 0.30 * max(0.0, curl)) * np.exp(0.28 * drift[3])
    if curl > 1.6 and length > -1.0:
        thick += 0.9 * min(2.0, length + 1.0)
    if bald > 1.2:
        thick *= 0.6
    grid = _shell(skull, angles, edge, float(np.clip(thick, 0.25, 5.0)), drift, length)
    cover, strands = _strands(rng, curl, length, bald)
    dyed = 0.0 if t.male > 0 or drift[5] < 1.3 else 0.5
    color = hair_color(t, shift=0.30 * float(drift[4]) + (0.9 if drift[5] > 1.3 and t.male < 0 else 0.0), dyed=dyed)
    return Hair(grid, cover, strands, color)


def _edge(
    t: Traits, angles: Array, length: float, bald: float, curl: float, drift: Array, rng: np.random.Generator
) -> Array:
    """Height (cm) at which hair ends at each angle."""
    a = np.abs(angles)
    line = 5.9 + 0.5 * t["forehead_height"] + 0.35 * t["hairline"] + 1.4 * max(0.0, bald) ** 1.2
    line = min(line, 11.2)
    temple = line - 0.4 + 0.5 * max(0.0, bald)
    burn = -0.5 - 0.8 * float(np.clip(drift[1], -1, 1)) if length < 0.3 else -2.0
    bottom = max(-6.0 - 6.0 * (length - 0.3) if length > 0.3 else -4.0 + min(0.0, length), -22.0)
    widow = 0.5 * np.tanh(t["hairline"]) * np.exp(-((angles / 0.12) ** 2))
    knots = np.array([0, 0.35, 0.62, 0.85, 1.1, 1.30, 1.5, 1.72, 2.0, np.pi])
    mid = 0.5 * (temple + 2.0)
    if length > 0.3:
        # Long hair falls in front of, over or behind the ears.
        open_ = float(np.clip(0.5 + 0.6 * drift[1], 0, 1))
        heights = np.array(
            [line, line, temple, mid - 0.2, 0.5 - 5.0 * (1 - open_), bottom * 0.5, bottom, bottom, bottom, bottom]
        )
    else:
        heights = np.array([line, line, temple, mid - 0.2 + 0.8 * max(0.0, bald), 0.9, burn, 1.2, -1.2, bottom, bottom])
    edge = np.interp(a, knots, heights) - widow
    fringe = drift[1] + 0.5 * t["hair_style"] + 0.25 * min(1.5, length)
    if bald < 0.8 and fringe > 0.7 and curl < 1.8 and length > -1.6:
        drop = min(1.0, 0.15 + (fringe - 0.7) * 1.1)
        part = 0.5 * np.tanh(drift[2] + 0.4 * t["hair_style"])
        depth = (line - 2.6 - 0.5 * rng.random()) * drop
        shape = np.clip(1.25 - (np.abs(angles - part * 0.6) / 0.95) ** 2, 0, 1)
        if abs(part) > 0.25:
            shape *= np.clip(0.35 + 1.1 * np.sign(part) * (angles + 0.25 * np.sign(part)), 0.05, 1)
        edge = np.minimum(edge, line - depth * shape)
    wobble = np.interp(angles, np.linspace(-np.pi, np.pi, 25), rng.standard_normal(25))
    fine = rng.standard_normal(angles.size)
    return edge + (0.22 + 0.1 * max(0.0, curl)) * wobble + 0.06 * fine


def _shell(skull: Array, angles: Array, edge: Array, thick: float, drift: Array, length: float) -> Array:
    """Vertices [3, H, W]: along each angle from the crown down the skull to the edge, then hanging."""
    columns = np.interp(angles, column_angles(), np.arange(skull.shape[1])).astype(np.float32)
    low = 78.0
    levels = skull[: int(low) + 1]
    heights = cv2.remap(
        np.ascontiguousarray(levels[..., 1], dtype=np.float32), np.tile(columns, (levels.shape[0], 1)),
        np.tile(np.arange(levels.shape[0], dtype=np.float32)[:, None], (1, columns.size)), cv2.INTER_LINEAR,
    )  # fmt: skip
    stop = (heights > edge[None]).sum(0).astype(np.float32)
    stop = np.clip(stop, 4, low)
    hang = np.maximum(0.0, heights[-1] - edge)
    arc = stop * 0.25
    share = (np.linspace(0, 1, HAIR_ROWS)[:, None] * (arc + hang)[None]).astype(np.float32)
    rows = np.minimum(share / 0.25, stop[None]).astype(np.float32)
    drop = np.maximum(0.0, share - arc[None])
    base = cv2.remap(
        skull[: int(low) + 1], np.tile(columns, (HAIR_ROWS, 1)), rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    t = np.linspace(0, 1, HAIR_ROWS)[:, None]
    front = np.exp(-((angles / 1.0) ** 2))[None]
    rise = np.clip(rows / 20, 0, 1)
    # Thin where it grows out of the forehead, full on top; sides of short hair lie close.
    taper = 1 - (0.75 * front) * np.clip((t - 0.6) / 0.4, 0, 1) ** 1.5
    side = np.exp(-(((np.abs(angles) - 1.5) / 0.5) ** 2))[None]
    taper = taper * (1 - (0.35 if length < 0.3 else 0.1) * side * np.clip(rows / 60, 0, 1))
    lift = thick * taper * (0.75 + 0.25 * rise) * (1 + 0.25 * np.tanh(drift[2]) * np.sin(angles)[None] * (1 - t))
    center = np.array([0, 1.0, -1.0], np.float32)
    out = base - center
    norm = np.sqrt((out**2).sum(-1, keepdims=True)) + 1e-6
    grid = base + out / norm * (lift[..., None] + 0.12)
    grid[..., 1] -= drop
    spread = 1 + 0.012 * drop * (1 + 0.5 * drift[3])
    grid[..., 0] *= spread
    return np.ascontiguousarray(np.moveaxis(grid, -1, 0), dtype=np.float32)


def _strands(rng: np.random.Generator, curl: float, length: float, bald: float) -> tuple[Array, Array]:
    """Cover and strand brightness [2H, 2W]."""
    rows, columns = 2 * HAIR_ROWS, 2 * HAIR_COLUMNS
    kinds = _noise_bank()
    weight = float(np.clip((curl + 0.3) / 1.8, 0, 1))
    shift_r, shift_c = int(rng.integers(0, 64)), int(rng.integers(0, 64))
    straight = kinds[0][shift_r : shift_r + rows, shift_c : shift_c + columns]
    curled = kinds[1][shift_r : shift_r + rows, shift_c : shift_c + columns]
    clumps = kinds[2][shift_c : shift_c + rows, shift_r : shift_r + columns]
    texture = straight * (1 - weight) + curled * weight
    brightness = np.clip(1 + 0.26 * texture + 0.16 * clumps, 0.3, 1.9)
    # Strands end at different places; curls have a broken outline.
    end = np.linspace(0, 1, rows, dtype=np.float32)[:, None]
    soft = 0.06 + 0.10 * float(np.clip(rng.random(), 0, 1)) + 0.04 * (length < 0)
    ragged = 0.95 + 0.032 * straight + 0.03 * clumps
    cover = np.clip((ragged - end) / soft, 0, 1)
    if length < -1.3:
        cover *= 0.55 + 0.2 * float(np.clip(length + 3.3, 0, 2))
    if bald > 0.9:
        top = np.clip((end - 0.25) / 0.4, 0, 1)
        cover *= top + (1 - top) * float(np.clip(1.6 - 0.65 * bald, 0.0, 1))
    return cover.astype(np.float32), brightness.astype(np.float32)


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[Array, Array, Array]:
    """Fixed noise: strands along the rows, curls, clumps."""
    rng = np.random.Generator(np.random.Philox(key=5))
    rows, columns = 2 * HAIR_ROWS + 64, 2 * HAIR_COLUMNS + 64
    white = rng.standard_normal((rows, columns)).astype(np.float32)
    strands = cv2.GaussianBlur(white, (0, 0), sigmaX=0.6, sigmaY=9.0)
    curls = cv2.GaussianBlur(white, (0, 0), 1.6) + cv2.GaussianBlur(white, (0, 0), 3.0) * 1.5
    clumps = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), sigmaX=4, sigmaY=16)
    strands, curls, clumps = (bank / bank.std() for bank in (strands, curls, clumps))
    return strands, curls, clumps


def wears(tendency: float, today: float) -> bool:
    """Whether somebody with a tendency (sigma) has it on in this image (a normal number): habits are steady, not
    absolute.
    """
    return bool(ndtr(1.8 * (tendency - 0.9)) > ndtr(today))
