"""What every face generator offers, and the registry that finds one by name.

A generator is stateless: identity codes are a pure function of (seed, identity), factors of (seed, identity, image),
and `render` a pure function of (codes, factors) row by row. Aligning and cropping is somebody else's work.

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

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

ENTRY_POINT_GROUP = "facelib.generators"


@runtime_checkable
class FaceGenerator(Protocol):
    """A source of face pictures with known identity codes and factors.

    Attributes:
        name: the registry name.
        image_size: R, pixels; pictures are square.
        identity_size: I, length of an identity code.
        factors: factor names and sizes, in the order they lie in a row of F numbers.
        identities: how many identities there are, None when unlimited.
        licence: the terms of pictures made with it, one sentence.
        weights_hash: SHA-256 of the weights it runs on, None when it has none.
    """

    name: str
    image_size: int
    identity_size: int
    factors: dict[str, int]
    identities: int | None
    licence: str
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
        """RGB pictures uint8 [N, R, R, 3] of codes [N, I] and factors [N, F]; row n depends on row n only."""
        ...


_Factory = TypeVar("_Factory", bound=Callable[..., Any])
_REGISTRY: dict[str, Callable[..., Any]] = {}
# Built in, imported when asked for: name -> module whose import registers it.
_BUILT_IN = {
    "morphable": "facelib.synthesis.morphable",
    "discofacegan": "facelib.synthesis.discofacegan",
    "folder": "facelib.synthesis.folder",
}


def register_generator(name: str) -> Callable[[_Factory], _Factory]:
    """Class decorator: makes `build_generator(name, **settings)` call the class.

    Raises:
        ValueError: another class already has the name.
    """

    def register(factory: _Factory) -> _Factory:
        taken = _REGISTRY.get(name)
        if taken is not None and _qualified_name(taken) != _qualified_name(factory):
            raise ValueError(f"generator name {name!r} is taken by {_qualified_name(taken)}: choose another name")
        _REGISTRY[name] = factory
        return factory

    return register


def available_generators() -> list[str]:
    """Names `build_generator` knows: registered, built in and from entry points, sorted."""
    names = set(_REGISTRY) | {point.name for point in entry_points(group=ENTRY_POINT_GROUP)}
    names |= {name for name, module in _BUILT_IN.items() if _exists(module)}
    return sorted(names)


def build_generator(name: str, **settings: Any) -> FaceGenerator:
    """The generator called `name`, made with `settings`.

    Raises:
        ValueError: unknown name, unknown or missing setting (the message lists what exists), or a value it refuses.
    """
    factory = _find(name)
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        unknown = sorted(set(settings) - set(parameters))
        if unknown:
            raise ValueError(
                f"generator {name!r} has no setting {', '.join(map(repr, unknown))}; "
                f"it has: {', '.join(parameters) or 'none'}"
            )
    missing = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in settings
    ]
    if missing:
        raise ValueError(f"generator {name!r} needs the setting {', '.join(map(repr, missing))}")
    return cast(FaceGenerator, factory(**settings))


def _find(name: str) -> Callable[..., Any]:
    if name not in _REGISTRY:
        if name in _BUILT_IN and _exists(_BUILT_IN[name]):
            importlib.import_module(_BUILT_IN[name])
        else:
            for point in entry_points(group=ENTRY_POINT_GROUP):
                if point.name == name:
                    return cast(Callable[..., Any], point.load())
    if name not in _REGISTRY:
        raise ValueError(f"unknown generator {name!r}: choose one of {', '.join(available_generators())}")
    return _REGISTRY[name]


def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _qualified_name(factory: Callable[..., Any]) -> str:
    return f"{factory.__module__}.{getattr(factory, '__qualname__', type(factory).__qualname__)}"
