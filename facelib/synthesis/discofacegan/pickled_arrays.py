"""What the names in a network pickle stand for: records of NumPy arrays and of networks, never imports.

An array is recorded as (type, shape, order, position of its bytes in the file), so that its values stay in the file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from facelib.utils.safe_pickle import Name, UnsafePickleError, describe, make_dict

MAX_ARRAY_VALUES = 1 << 28
_DTYPES = ("f2", "f4", "f8", "i4", "i8", "u1", "b1")


@dataclass(frozen=True)
class PickledBytes:
    """Where some bytes are in the file."""

    start: int
    size: int


@dataclass(eq=False)
class PickledType:
    """A NumPy type, by its code such as "f4"."""

    code: str

    def set_state(self, state: Any) -> None:
        """Byte order and the like: only little-endian types are known."""
        if not is_tuple_of(state, (int, str), prefix=True) or state[1] not in "<|=":
            raise UnsafePickleError(f"it sets the state of a NumPy type to {describe(state)}")


@dataclass(eq=False)
class PickledArray:
    """An array as the pickle describes it; its values stay in the file."""

    shape: tuple[int, ...] = ()
    dtype: PickledType | None = None
    order: str = "C"
    content: PickledBytes | None = None

    def set_state(self, state: Any) -> None:
        """(version, shape, type, column-major, bytes), once."""
        if self.content is not None or not is_tuple_of(state, (int, tuple, PickledType, bool, PickledBytes)):
            raise UnsafePickleError(f"it sets the state of an array to {describe(state)}")
        _, shape, dtype, fortran, content = state
        _fill(self, shape, dtype, "F" if fortran else "C", content)


@dataclass(eq=False)
class PickledNetwork:
    """A network object, of which only the state is kept; its class is never looked up."""

    state: dict[str, Any] = field(default_factory=dict)

    def set_state(self, state: Any) -> None:
        """Names and values, once."""
        if not isinstance(state, dict) or self.state:
            raise UnsafePickleError(f"it sets the state of a network to {describe(state)}")
        self.state = state


def resolve_name(module: str, name: str) -> Name | None:
    """What a global name of a network pickle stands for; None for all others."""
    return _NAMES.get((module, name))


def is_tuple_of(values: object, types: tuple[type, ...], prefix: bool = False) -> bool:
    """Whether `values` is a tuple of these types (with `prefix`, one that starts with them)."""
    if not isinstance(values, tuple):
        return False
    right_length = len(values) >= len(types) if prefix else len(values) == len(types)
    return right_length and all(isinstance(value, kind) for value, kind in zip(values, types, strict=False))


def _make_dtype(arguments: tuple[Any, ...]) -> PickledType:
    if not is_tuple_of(arguments, (str,), prefix=True) or arguments[0] not in _DTYPES:
        given = describe(arguments[0]) if arguments else "nothing"
        raise UnsafePickleError(f"a NumPy type {given}, known are {', '.join(_DTYPES)}")
    return PickledType(arguments[0])


def _make_empty_array(arguments: tuple[Any, ...]) -> PickledArray:
    if not is_tuple_of(arguments, (Name, tuple, PickledBytes)) or arguments[0] is not _ARRAY:
        raise UnsafePickleError("an array of an unknown class")
    return PickledArray()


def _make_scalar(arguments: tuple[Any, ...]) -> PickledArray:
    if not is_tuple_of(arguments, (PickledType, PickledBytes)):
        raise UnsafePickleError("a NumPy scalar that is not a type and bytes")
    return _fill(PickledArray(), (), arguments[0], "C", arguments[1])


def _make_array(arguments: tuple[Any, ...]) -> PickledArray:
    if not is_tuple_of(arguments, (PickledBytes, PickledType, tuple, str)) or arguments[3] not in ("C", "F"):
        raise UnsafePickleError("an array that is not bytes, a type, a shape and an order")
    content, dtype, shape, order = arguments
    return _fill(PickledArray(), shape, dtype, order, content)


def _make_network(arguments: tuple[Any, ...]) -> PickledNetwork:
    if arguments:
        raise UnsafePickleError(f"it makes a network with {len(arguments)} arguments")
    return PickledNetwork()


def _fill(
    array: PickledArray, shape: tuple[Any, ...], dtype: PickledType, order: str, content: PickledBytes
) -> PickledArray:
    if len(shape) > 8 or any(type(side) is not int or not 0 <= side <= MAX_ARRAY_VALUES for side in shape):
        raise UnsafePickleError(f"an array with {len(shape)} dimensions, or of invalid sizes")
    values = math.prod(shape)
    if values > MAX_ARRAY_VALUES or values * np.dtype(dtype.code).itemsize != content.size:
        raise UnsafePickleError(f"an array of shape {shape} and type {dtype.code} in {content.size} bytes")
    array.shape, array.dtype, array.order, array.content = shape, dtype, order, content
    return array


_ARRAY = Name("numpy.ndarray")
_DICT = Name("a dictionary", call=make_dict, new=make_dict)
_NAMES: dict[tuple[str, str], Name] = {
    ("dnnlib.tflib.network", "Network"): Name("dnnlib.tflib.network.Network", new=_make_network),
    ("dnnlib.util", "EasyDict"): _DICT,
    ("dnnlib", "EasyDict"): _DICT,
    ("collections", "OrderedDict"): _DICT,
    ("numpy", "dtype"): Name("numpy.dtype", call=_make_dtype),
    ("numpy", "ndarray"): _ARRAY,
}
for _package in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _NAMES[f"{_package}.multiarray", "_reconstruct"] = Name("_reconstruct", call=_make_empty_array)
    _NAMES[f"{_package}.multiarray", "scalar"] = Name("scalar", call=_make_scalar)
    _NAMES[f"{_package}.numeric", "_frombuffer"] = Name("_frombuffer", call=_make_array)
