"""Latents as pure functions of (seed, identity, image), independent of batch, order and worker.

Counter-based: every number is a hash (SplitMix64 finalizer) of (seed, stream, identity, image, column), turned into
N(0, 1) by the inverse normal distribution. There is no generator state, so image 7 of identity 5 can be drawn alone,
and two workers never share or repeat a stream.

Sizes follow the DiscoFaceGAN convention used by USynthFace: identity 128, expression 32, illumination 16, rotation 3,
noise 32.

Shapes: N batch, I identity size, F factor size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

IDENTITY_SIZE = 128
FACTORS: dict[str, int] = {"expression": 32, "illumination": 16, "rotation": 3, "noise": 32}
FACTOR_SIZE = sum(FACTORS.values())

_IDENTITY_STREAM, _IMAGE_STREAM = 1, 2


def identity_latents(seed: int, identities: npt.ArrayLike, size: int = IDENTITY_SIZE) -> npt.NDArray[np.float32]:
    """N(0, 1) identity codes, float32 [N, size], of integer identities [N] (any int64)."""
    return _normal(seed, _IDENTITY_STREAM, _as_counters(identities, "identities"), np.zeros(1, np.uint64), size)


def image_latents(
    seed: int, identities: npt.ArrayLike, indices: npt.ArrayLike, size: int = FACTOR_SIZE
) -> npt.NDArray[np.float32]:
    """N(0, 1) factors of images, float32 [N, size]: row n belongs to image `indices[n]` of `identities[n]`.

    Raises:
        ValueError: identities and indices differ in length or are not 1-D integers.
    """
    identity, index = _as_counters(identities, "identities"), _as_counters(indices, "indices")
    if identity.shape != index.shape:
        raise ValueError(
            f"identities has {identity.size} entries, indices has {index.size}: give one index for each identity"
        )
    return _normal(seed, _IMAGE_STREAM, identity, index, size)


def factor_slices(factors: dict[str, int]) -> dict[str, slice]:
    """Where each named factor lies in a row of F numbers, in the dictionary's order."""
    slices, start = {}, 0
    for name, size in factors.items():
        slices[name] = slice(start, start + size)
        start += size
    return slices


def mix64(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The SplitMix64 finalizer: a bijection of uint64 whose output bits all depend on all input bits."""
    with np.errstate(over="ignore"):
        x = x + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _normal(
    seed: int, stream: int, identity: npt.NDArray[np.uint64], index: npt.NDArray[np.uint64], size: int
) -> npt.NDArray[np.float32]:
    key = mix64(np.asarray([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    key = mix64(key ^ np.uint64(stream))
    key = mix64(mix64(key ^ identity) ^ index)
    bits = mix64(key[:, None] ^ mix64(np.arange(size, dtype=np.uint64))[None])
    # 53 bits, shifted by half a step: never 0 or 1, so the inverse distribution is finite (|x| < 8.3).
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return ndtri(uniform).astype(np.float32)


def _as_counters(values: npt.ArrayLike, name: str) -> npt.NDArray[np.uint64]:
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{name} must be a 1-D array of integers, got shape {array.shape}, dtype {array.dtype}")
    return array.astype(np.int64).view(np.uint64)
