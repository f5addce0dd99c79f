"""Verification sets in the insightface `.bin` format: LFW, AgeDB-30, CFP-FP, CALFW, CPLFW and the like.

The file is a pickle of `(images, issame)`: encoded images (JPEG or PNG bytes) and one boolean per pair; pair i is
images 2i and 2i+1. Files in circulation were written by Python 2 and Python 3.

A pickle can run any code when it is loaded, so these are read by `facelib.utils.safe_pickle`, which builds plain data
and looks up no name.
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data.storage import atomic_file, local_copy
from facelib.utils.file_kinds import HEAD_BYTES, describe_content
from facelib.utils.safe_pickle import DamagedPickleError, Name, UnsafePickleError, read_pickle


class BinError(ValueError):
    """A `.bin` file that is damaged, holds something else, or holds more than plain data."""


def read_bin(path: str | os.PathLike[str]) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Read a verification set.

    Args:
        path: the `.bin` file, a path or a URI.

    Returns:
        Encoded images (2P; pair i is 2i and 2i+1) and a boolean array [P], True where a pair shows one identity.

    Raises:
        FileNotFoundError: no such file.
        BinError: damaged, truncated, not this format, or a pickle with more than plain data in it.
    """
    with local_copy(path) as local:
        return _read_local(local)


def _read_local(path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such verification set; give the path of a .bin file")
    try:
        content = read_pickle(path.read_bytes(), _bytes_name, max_opcodes=None)
    except DamagedPickleError as error:
        if kind := _kind(path):
            raise BinError(f"{path}: not a verification set (.bin), it is {kind}") from None
        raise BinError(
            f"{path}: damaged or not a verification set (.bin): {error}; copy or download it again"
        ) from None
    except UnsafePickleError as error:
        if kind := _kind(path):
            raise BinError(f"{path}: not a verification set (.bin), it is {kind}") from None
        raise BinError(f"{path}: refused, {error}; {_advice(error.name or '')}") from None
    except Exception as error:
        raise BinError(
            f"{path}: damaged verification set ({type(error).__name__}: {error}); copy or download it again"
        ) from None
    return _check_content(content, path)


def _kind(path: Path) -> str:
    """What else the file is; "" if unknown."""
    with open(path, "rb") as file:
        return describe_content(file.read(HEAD_BYTES))


def is_bin(path: str) -> bool:
    """Whether a path names `.bin` files, in upper or lower case."""
    return path.lower().endswith(".bin")


def bin_paths(path: str) -> list[str]:
    """The files of `a.bin+b.bin`; a "+" elsewhere belongs to a folder's name."""
    return re.split(r"(?<=\.bin)\+", path, flags=re.IGNORECASE)


def write_bin(path: str | os.PathLike[str], images: Sequence[bytes], issame: Any) -> None:
    """Write a verification set that this and every other reader of the format understands.

    Args:
        path: file to write; it appears complete or not at all.
        images: encoded images, two per pair.
        issame: one boolean (or 0 and 1) per pair.

    Raises:
        BinError: the numbers do not match, an image is not bytes, a label is not boolean.
    """
    path = Path(path)
    # Plain Python booleans: NumPy's pickle as objects, which readers refuse.
    labels = issame.tolist() if hasattr(issame, "tolist") else list(issame)
    checked, same = _check_content((list(images), labels), path)
    payload = pickle.dumps((checked, same.tolist()), protocol=4)
    with atomic_file(path) as file:
        file.write(payload)


def _bytes_name(module: str, name: str) -> Name | None:
    """What Python 3 writes for bytes in the protocols 0 to 2, which have no opcode for them."""
    if (module, name) == ("_codecs", "encode"):
        return Name("_codecs.encode", call=_encode)
    if (module, name) == ("__builtin__", "bytes"):
        return Name("bytes", call=_no_bytes)
    return None


def _encode(arguments: tuple[Any, ...]) -> bytes:
    if len(arguments) != 2 or not isinstance(arguments[0], str) or arguments[1] not in ("latin1", "latin-1"):
        raise UnsafePickleError("it calls _codecs.encode with something other than a text and 'latin1'")
    try:
        return arguments[0].encode("latin-1")
    except UnicodeEncodeError:
        raise UnsafePickleError("it encodes a text that is not Latin-1") from None


def _no_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise UnsafePickleError("it calls bytes with an argument")
    return b""


def _advice(name: str) -> str:
    if name.startswith("numpy."):
        return "NumPy values pickle as objects: write it again as plain bool and bytes with facelib.sources.write_bin"
    return "a verification set is plain data, and loading more could run code"


def _check_content(content: Any, path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise BinError(f"{path}: expected the pair (images, issame), found {_describe(content)}")
    images, issame = content
    for name, part in (("images", images), ("issame", issame)):
        if not isinstance(part, list | tuple):
            raise BinError(f"{path}: {name} must be a list, found {_describe(part)}")
    for index, image in enumerate(images):
        if not isinstance(image, bytes) or not image:
            raise BinError(f"{path}: image {index} must be encoded bytes, found {_describe(image)}")
    for index, label in enumerate(issame):
        if not isinstance(label, bool | int | float) or label not in (0, 1):
            raise BinError(f"{path}: issame[{index}] must be True or False, found {_describe(label)}")
    if len(images) != 2 * len(issame):
        raise BinError(
            f"{path}: {len(images)} images for {len(issame)} pairs; a verification set holds two images per pair"
        )
    return list(images), np.array(issame, dtype=bool)


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple | bytes | str):
        return f"{type(value).__name__} of length {len(value)}"
    return repr(value)[:60]
