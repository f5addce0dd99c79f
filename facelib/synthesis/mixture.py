"""Several generators as one: every identity belongs to one of them, in given shares.

Which one is a function of the identity's number alone, spread evenly: any stretch of identities has the shares nearly
exactly, so that neither parts nor subsets of a dataset differ in kind.

Shapes: N batch, K generators, I identity size, F sum of factor sizes, R image size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facelib.synthesis.generator import FaceGenerator, generator_version
from facelib.synthesis.latents import factor_slices

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: multiples of it fill the circle evenly


class MixturePart(NamedTuple):
    """A generator and its share of the identities, relative to the sum of all shares."""

    generator: FaceGenerator
    share: float


class MixtureGenerator:
    """Identities from several generators.

    A code is the number of the generator, its code, and zeros; factors are those of all generators, named
    `<generator>/<factor>`, and zero but for the identity's own. A generator draws the identities that are its own by
    the numbers that they have in the mixture.

    Raises:
        ValueError: no generators, a share that is not positive, image sizes that differ, or a generator with a limited
            number of identities.
    """

    name = "mixture"

    def __init__(self, parts: Sequence[MixturePart]) -> None:
        if not parts:
            raise ValueError("a mixture needs at least one generator")
        for generator, share in parts:
            if not share > 0:
                raise ValueError(f"the share of {generator.name} is {share}, expected more than 0")
            if generator.identities is not None:
                raise ValueError(f"{generator.name} has a limited number of identities: it cannot be part of a mixture")
        sizes = {generator.image_size for generator, _ in parts}
        if len(sizes) > 1:
            made = ", ".join(f"{g.name} {g.image_size}" for g, _ in parts)
            raise ValueError(f"generators of a mixture must make images of one size, set image_size: {made}")
        self.parts = list(parts)
        self.image_size = sizes.pop()
        self.identity_size = 1 + max(generator.identity_size for generator, _ in parts)
        self.identities: int | None = None
        self._names = [
            generator.name if [g.name for g, _ in parts].count(generator.name) == 1 else f"{generator.name}-{number}"
            for number, (generator, _) in enumerate(parts)
        ]
        self.factors = {
            f"{name}/{factor}": size
            for name, (generator, _) in zip(self._names, parts)
            for factor, size in generator.factors.items()
        }
        self._places = factor_slices({str(k): sum(g.factors.values()) for k, (g, _) in enumerate(parts)})
        self.license = "; ".join(dict.fromkeys(f"{generator.name}: {generator.license}" for generator, _ in parts))
        hashes = [f"{g.name} {generator_version(g)} {g.weights_hash}" for g, _ in parts]
        self.weights_hash: str | None = hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def assign(self, identities: npt.ArrayLike) -> Integers:
        """Which of the K generators each identity [N] belongs to, int64 [N]."""
        with np.errstate(over="ignore"):
            turns = np.asarray(identities, np.int64).astype(np.uint64) * _GOLDEN + (_GOLDEN >> np.uint64(1))
        shares = np.cumsum([share for _, share in self.parts])
        return np.searchsorted(shares[:-1] / shares[-1], turns / 2.0**64, side="right").astype(np.int64)

    def source(self, identity: int) -> str:
        """The name of the generator that an identity belongs to."""
        return self.parts[int(self.assign([identity])[0])].generator.name

    def identity_codes(self, seed: int, identities: Integers) -> Floats:
        """Codes float32 [N, I] of identities int64 [N]."""
        codes = np.zeros((len(identities), self.identity_size), np.float32)
        owners = self.assign(identities)
        codes[:, 0] = owners
        for number, (generator, _) in enumerate(self.parts):
            own = np.flatnonzero(owners == number)
            codes[own, 1 : 1 + generator.identity_size] = generator.identity_codes(seed, identities[own])
        return codes

    def image_factors(self, seed: int, identities: Integers, indices: Integers) -> Floats:
        """Factors float32 [N, F] of image `indices[n]` of `identities[n]`, both int64 [N]."""
        factors = np.zeros((len(identities), sum(self.factors.values())), np.float32)
        owners = self.assign(identities)
        for number, (generator, _) in enumerate(self.parts):
            own = np.flatnonzero(owners == number)
            factors[own, self._places[str(number)]] = generator.image_factors(seed, identities[own], indices[own])
        return factors

    def render(self, codes: Floats, factors: Floats) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of codes [N, I] and factors [N, F]."""
        images = np.zeros((len(codes), self.image_size, self.image_size, 3), np.uint8)
        for number, (generator, _) in enumerate(self.parts):
            own = np.flatnonzero(codes[:, 0] == number)
            if own.size:
                images[own] = generator.render(
                    codes[own, 1 : 1 + generator.identity_size], factors[own, self._places[str(number)]]
                )
        return images
