"""Read the published generator pickle of DiscoFaceGAN without running anything that it says.

Format: `(G, D, Gs)`, three `dnnlib.tflib.network.Network` objects, pickle protocol 3 to 5 (numpy 1 or 2). The file is
not unpickled but interpreted by `facelib.utils.safe_pickle`. The network's source text in it, which the original
executes, stays text and is dropped. Arrays are copied out of the mapped file for Gs alone, so that reading 301 MB
takes the memory of one network.

Gs is the long-term average of the generator G, the one that makes images; D is the discriminator.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from facelib.synthesis.discofacegan.pickled_arrays import (
    PickledArray,
    PickledBytes,
    PickledNetwork,
    is_tuple_of,
    resolve_name,
)
from facelib.synthesis.discofacegan.topology import Topology
from facelib.utils.safe_pickle import UnsafePickleError, describe, read_pickle

MAX_FILE_BYTES = 2 << 30  # the published file is 301 MB
_FLOAT_DTYPES = ("f2", "f4", "f8")


@dataclass(frozen=True)
class NetworkTables:
    """The tables of one network.

    Attributes:
        name: "Gs".
        version: of the pickle's state, 2 or 3.
        static_kwargs: the settings the network was built with.
        variables: name -> float32 array, the network's own first, then "G_synthesis/..." and "G_mapping/...". Layouts
            are the file's: convolution kernels [kernel, kernel, in, out], constants and noise [1, C, H, W].
    """

    name: str
    version: int
    static_kwargs: dict[str, Any]
    variables: dict[str, npt.NDArray[np.float32]]

    @property
    def topology(self) -> Topology:
        """Sizes and layers, from the static settings."""
        return Topology.from_static_kwargs(self.static_kwargs)


def read_network_pickle(path: str | Path) -> NetworkTables:
    """The tables of Gs from a `(G, D, Gs)` pickle; nothing in the file is executed.

    Raises:
        FileNotFoundError: no such file.
        UnsafePickleError: the file is damaged, asks for anything but these networks' tables, or its tables do not have
            the names, shapes and finite values that its settings call for.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give DiscoFaceGAN's network-snapshot-*.pkl")
    if not 0 < path.stat().st_size <= MAX_FILE_BYTES:
        raise UnsafePickleError(f"{path}: {path.stat().st_size} bytes, expected 1 to {MAX_FILE_BYTES}")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            top = read_pickle(data, resolve_name, make_bytes=lambda content, start: PickledBytes(start, len(content)))
            return _gs_tables(top, data)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path}: refused, {error}") from error
        except Exception as error:  # a hostile file can be wrong in any way: all of them mean "refused"
            raise UnsafePickleError(f"{path}: refused, damaged pickle ({type(error).__name__}: {error})") from error


def _gs_tables(top: object, data: mmap.mmap) -> NetworkTables:
    """Check the top level and copy out Gs."""
    if not isinstance(top, tuple) or len(top) != 3 or not all(isinstance(part, PickledNetwork) for part in top):
        raise UnsafePickleError(f"it holds {describe(top)}, not the three networks (G, D, Gs)")
    names = [part.state.get("name") for part in top]
    if any(not isinstance(name, str) for name in names) or names[2] != "Gs":
        raise UnsafePickleError(f"its networks are called {', '.join(map(describe, names))}; the third must be 'Gs'")
    state = top[2].state
    version, settings = state.get("version"), _plain_settings(state.get("static_kwargs"))
    if version not in (2, 3) or isinstance(version, bool):
        raise UnsafePickleError(f"network version {describe(version)}, known are 2 and 3")
    components = state.get("components")
    if not isinstance(components, dict) or set(components) != {"synthesis", "mapping"}:
        raise UnsafePickleError("Gs does not consist of a mapping and a synthesis network")
    arrays = _variables(state, "")
    for part in ("synthesis", "mapping"):
        network = components[part]
        if not isinstance(network, PickledNetwork) or network.state.get("name") != f"G_{part}":
            raise UnsafePickleError(f"the component {part} is not a network called G_{part}")
        arrays |= _variables(network.state, f"G_{part}/")
    try:
        expected = Topology.from_static_kwargs(settings).variables()
    except ValueError as error:
        raise UnsafePickleError(str(error)) from error
    if arrays.keys() != expected.keys():
        differing = sorted(arrays.keys() ^ expected.keys())
        raise UnsafePickleError(f"variables are missing or unknown: {', '.join(differing[:5])} ({len(differing)})")
    return NetworkTables("Gs", version, settings, {n: _copy(n, arrays[n], s, data) for n, s in expected.items()})


def _plain_settings(settings: object) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise UnsafePickleError(f"static_kwargs is {describe(settings)}, not a dictionary")
    plain: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(name, str):
            raise UnsafePickleError(f"static_kwargs has the key {describe(name)}, not a text")
        if isinstance(value, list | tuple) and len(value) <= 16:
            value = list(value)
        if not all(isinstance(v, str | int | float | None) for v in (value if isinstance(value, list) else [value])):
            raise UnsafePickleError(f"static_kwargs.{name[:80]} is {describe(value)}")
        plain[name] = value
    return plain


def _variables(state: dict[str, Any], prefix: str) -> dict[str, PickledArray]:
    variables = state.get("variables")
    if not isinstance(variables, list) or not all(is_tuple_of(entry, (str, PickledArray)) for entry in variables):
        raise UnsafePickleError(f"the variables of {prefix or 'Gs'} are not a list of names and arrays")
    if len({name for name, _ in variables}) != len(variables):
        raise UnsafePickleError(f"the variables of {prefix or 'Gs'} name one twice")
    return {prefix + name: array for name, array in variables}


def _copy(name: str, array: PickledArray, shape: tuple[int, ...], data: mmap.mmap) -> npt.NDArray[np.float32]:
    if array.content is None or array.dtype is None or array.shape != shape or array.dtype.code not in _FLOAT_DTYPES:
        kind = array.dtype.code if array.dtype else "no"
        raise UnsafePickleError(f"{name} has shape {array.shape} and {kind} type, expected {shape} of floats")
    content = data[array.content.start : array.content.start + array.content.size]
    values = np.frombuffer(content, np.dtype("<" + array.dtype.code)).reshape(shape, order=array.order)  # type: ignore[call-overload]
    with np.errstate(over="ignore"):
        copy = np.array(values, np.float32, order="C")
    if not np.isfinite(copy).all():
        raise UnsafePickleError(f"{name} holds values that are not finite")
    return copy
