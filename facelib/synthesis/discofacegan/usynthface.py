"""The latents and file names of USynthFace's generation script (Boutros et al., FG 2023), number for number.

The script draws from numpy's legacy generator, seeded once with 42, for each identity in turn: 179 latents, 32 noise
values, then 51 factor latents for each of its images. So an identity's numbers depend on the images per identity and
on all identities before it, and its --offset renames the same people. Use it to reproduce published sets; for new work
the independent latents of `facelib.synthesis.latents` have none of these ties.

Shapes: N batch, B images per identity; latents [B, 179] = identity 128 | expression 32 | illumination 16 | rotation 3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from facelib.synthesis.discofacegan.topology import COEFFICIENT_SIZES
from facelib.synthesis.discofacegan.vae import FACTORS, LATENTS
from facelib.synthesis.latents import IDENTITY_SIZE

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
PUBLISHED_SEED = 42
MAX_IDENTITIES = 1_000_000  # the last one is found by drawing all before it
_NOISE = COEFFICIENT_SIZES["noise"]
_VARIED = {0: ("exp", "gamma", "rot"), 1: ("exp",), 2: ("gamma",), 3: ("rot",)}
_SKIP_VALUES = 1 << 20


class USynthFaceStream:
    """Latents of the script, for any identity.

    Args:
        images: B, images per identity (the script's --batchsize, 128 by default).
        factor_mode: what varies between them: 0 all factors, 1 expression, 2 illumination, 3 rotation (its --factor).

    Raises:
        ValueError: a setting out of range.
    """

    identities = MAX_IDENTITIES

    def __init__(self, images: int = 128, factor_mode: int = 0) -> None:
        if not 1 <= images <= 1000:
            raise ValueError(f"images per identity in the stream: {images}, expected 1 to 1000")
        if factor_mode not in _VARIED:
            raise ValueError(
                f"factor_mode is {factor_mode}, expected 0 all, 1 expression, 2 illumination or 3 rotation"
            )
        self.images, self.factor_mode = images, factor_mode
        self._seed, self._position = -1, 0
        self._state = np.random.RandomState(0)
        self._last: tuple[int, int, npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None

    def draw(self, seed: int, identity: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Latents float64 [B, 179] and noise [B, 32] of one identity; ascending identities are fastest.

        Raises:
            ValueError: seed or identity out of range.
        """
        if self._last is not None and self._last[:2] == (seed, identity):
            return self._last[2], self._last[3]
        if not 0 <= identity < MAX_IDENTITIES:
            raise ValueError(f"identity {identity}: the usynthface stream has 0 to {MAX_IDENTITIES - 1}")
        if not 0 <= seed < 1 << 32:
            raise ValueError(f"seed is {seed}, the usynthface stream takes 0 to {(1 << 32) - 1}; the published is 42")
        self._advance(seed, identity)
        base, noise = self._state.normal(size=(1, LATENTS)), self._state.normal(size=(1, _NOISE))
        varied = self._state.normal(size=(self.images, LATENTS - IDENTITY_SIZE))
        self._position += 1
        latents = np.repeat(base, self.images, axis=0)
        start = IDENTITY_SIZE
        for factor, (_, size) in list(FACTORS.items())[1:]:
            if factor in _VARIED[self.factor_mode]:
                latents[:, start : start + size] = varied[:, start - IDENTITY_SIZE : start - IDENTITY_SIZE + size]
            start += size
        self._last = seed, identity, latents, np.repeat(noise, self.images, axis=0)
        return self._last[2], self._last[3]

    def codes(self, seed: int, identities: Integers) -> Floats:
        """Identity codes float32 [N, 128]."""
        rows = [self.draw(seed, int(identity))[0][0, :IDENTITY_SIZE] for identity in identities]
        return np.asarray(rows, np.float32).reshape(-1, IDENTITY_SIZE)

    def factors(self, seed: int, identities: Integers, indices: Integers) -> Floats:
        """Factors float32 [N, 83]: expression 32 | illumination 16 | rotation 3 | noise 32.

        Raises:
            ValueError: an index beyond the images per identity.
        """
        rows = []
        for identity, index in zip(identities, indices, strict=True):
            if not 0 <= index < self.images:
                raise ValueError(f"image {index}: stream_images is {self.images}; set it to the images per identity")
            latents, noise = self.draw(seed, int(identity))
            rows.append(np.concatenate([latents[index, IDENTITY_SIZE:], noise[index]]))
        return np.asarray(rows, np.float32).reshape(-1, LATENTS - IDENTITY_SIZE + _NOISE)

    def _advance(self, seed: int, identity: int) -> None:
        if seed != self._seed or identity < self._position:
            self._seed, self._position = seed, 0
            self._state = np.random.RandomState(seed)
        values = (identity - self._position) * (LATENTS + _NOISE + self.images * (LATENTS - IDENTITY_SIZE))
        while values:
            step = min(values, _SKIP_VALUES)
            self._state.normal(size=step)
            values -= step
        self._position = identity
