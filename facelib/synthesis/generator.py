"""What every face generator offers, and the registry that finds one by name.

A generator is stateless: identity codes are a pure function of (seed, identity), factors of (seed, identity, image),
and `render` a pure function of (codes, factors) row by row. Aligning and cropping is not its task.

To add a generator, write one file:

    from facelib.synthesis import FaceGenerator, register_generator

    @register_generator("mine")
    class MyGenerator:                        # the attributes and three methods of FaceGenerator
        def __init__(self, image_size: int = 128): ...

    build_generator("mine", image_size=256)

or, from a package of your own, name the class in its pyproject.toml and skip the decorator:

    [project.entry-points."facelib.generators"]
    mine = "my_package.my_module:MyGenerator"

Settings are the keyword arguments of the constructor. Shapes: N batch, I identity size, F sum of factor sizes, R
image size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from facelib.utils.registry import Factory, Registry

ENTRY_POINT_GROUP = "facelib.generators"


@runtime_checkable
class FaceGenerator(Protocol):
    """A source of face images with known identity codes and factors.

    Attributes:
        name: the registry name.
        image_size: R, pixels; images are square.
        identity_size: I, length of an identity code.
        factors: factor names and sizes, in the order they lie in a row of F numbers.
        identities: how many identities there are, None when unlimited.
        license: the terms of images made with it, one sentence.
        weights_hash: SHA-256 of the weights it runs on, None when it has none.

    A generator may also have a `version`, a whole number that is raised when the same latents give other images than
    before (1 when it has none, see `generator_version`): datasets of two versions are never mixed.
    """

    name: str
    image_size: int
    identity_size: int
    factors: dict[str, int]
    identities: int | None
    license: str
    weights_hash: str | None

    def identity_codes(self, seed: int, identities: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Codes float32 [N, I] of identities int64 [N]."""
        ...

    def image_factors(
        self, seed: int, identities: npt.NDArray[np.int64], indices: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Factors float32 [N, F] of image `indices[n]` of `identities[n]`, both int64 [N]."""
        ...

    def render(self, codes: npt.NDArray[np.float32], factors: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of codes [N, I] and factors [N, F]; row n depends on row n only."""
        ...


_REGISTRY = Registry(
    "generator",
    ENTRY_POINT_GROUP,
    {
        "morphable": "facelib.synthesis.morphable",
        "discofacegan": "facelib.synthesis.discofacegan",
        "mobilestylegan": "facelib.synthesis.mobilestylegan",
        "folder": "facelib.synthesis.folder",
    },
)


def register_generator(name: str) -> Callable[[Factory], Factory]:
    """Class decorator: makes `build_generator(name, **settings)` call the class.

    Raises:
        ValueError: another class already has the name.
    """
    return _REGISTRY.register(name)


def available_generators() -> list[str]:
    """Names `build_generator` knows: registered, built in and from entry points, sorted."""
    return _REGISTRY.names()


def build_generator(name: str, **settings: Any) -> FaceGenerator:
    """The generator called `name`, made with `settings`.

    Raises:
        ValueError: unknown name, unknown or missing setting (the message lists what exists), or a value it refuses.
    """
    return cast(FaceGenerator, _REGISTRY.build(name, **settings))


def generator_version(generator: FaceGenerator) -> int:
    """The version of a generator's images, 1 when it names none."""
    return int(getattr(generator, "version", 1))
