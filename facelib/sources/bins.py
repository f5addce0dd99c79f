"""Verification sets in the insightface `.bin` format: LFW, AgeDB-30, CFP-FP, CALFW, CPLFW and the like.

The file is a pickle of `(images, issame)`: encoded images (JPEG or PNG bytes) and one boolean per pair; pair i is
images 2i and 2i+1. Files in circulation were written by Python 2 and Python 3.

A pickle can run any code when it is loaded, so these are read in two steps: the opcodes are checked against the few
that plain data needs, and what passes is loaded by an unpickler that resolves no name at all.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data.storage import atomic_file, local_copy

# Opcodes of lists, tuples, numbers, booleans, strings and bytes in protocols 0 to 5. Everything else builds objects.
PLAIN_OPCODES = frozenset(
    (  # noqa: SIM905
        "PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 "
        "STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8 "
        "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
        "EMPTY_LIST APPEND APPENDS LIST EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 "
        "PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE"
    ).split()
)
_OPCODES = {opcode.code: opcode for opcode in pickletools.opcodes}


class BinError(ValueError):
    """A `.bin` file that is damaged, holds something else, or holds more than plain data."""


def read_bin(path: str | os.PathLike[str]) -> tuple[list[bytes], NDArray[np.bool_]]:
    """Read a verification set.

    Args:
        path: the `.bin` file, a path or a URI.

    Returns:
        Encoded images (2P of them, pair i is 2i and 2i+1) and a boolean array [P], True where a pair shows one person.

    Raises:
        FileNotFoundError: no such file.
        BinError: damaged, truncated, not this format, or a pickle with more than plain data in it.
    """
    with local_copy(path) as local:
        return _read_local(local)


def _read_local(path: Path) -> tuple[list[bytes], NDArray[np.bool_]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such verification set; give the path of a .bin file")
    data = path.read_bytes()
    _check_opcodes(data, path)
    try:
        # Python 2 wrote images as str: "bytes" keeps them as they are.
        content = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except BinError:
        raise
    except Exception as error:
        raise BinError(
            f"{path}: damaged verification set ({type(error).__name__}: {error}); copy or download it again"
        ) from None
    return _check_content(content, path)


def bin_paths(path: str) -> list[str]:
    """The files of `a.bin+b.bin`; a "+" elsewhere belongs to a folder's name."""
    return re.split(r"(?<=\.bin)\+", path)


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
    # Plain Python booleans: NumPy's pickle as objects, which readers rightly refuse.
    labels = issame.tolist() if hasattr(issame, "tolist") else list(issame)
    checked, same = _check_content((list(images), labels), path)
    payload = pickle.dumps((checked, same.tolist()), protocol=4)
    with atomic_file(path) as file:
        file.write(payload)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler for data only: no class or function is ever looked up."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise BinError(f"pickle asks for {module_name}.{global_name}; a verification set holds plain data only")

    def persistent_load(self, pid: Any) -> Any:
        raise BinError("pickle refers to an object outside itself; a verification set holds plain data only")


def _check_opcodes(data: bytes, path: Path) -> None:
    """Walk over the pickle without executing it; BinError at the first opcode that plain data does not need."""
    stream = io.BytesIO(data)
    seen = 0
    strings: list[str] = []
    while True:
        position = stream.tell()
        code = stream.read(1)
        opcode = _OPCODES.get(code.decode("latin-1")) if code else None
        if not code:
            raise BinError(f"{path}: truncated after {len(data):,} bytes; copy or download it again")
        if opcode is None:
            raise BinError(f"{path}: not a verification set (.bin): byte {position:,} is no pickle opcode")
        argument = _read_argument(stream, opcode, path, position)
        seen += 1
        if opcode.name not in PLAIN_OPCODES:
            raise BinError(_refusal(path, opcode.name, argument, strings, position))
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > seen:
            raise BinError(f"{path}: damaged or hostile pickle: memo slot {argument:,} at byte {position:,}")
        if isinstance(argument, str) and len(argument) < 200:
            strings = [*strings[-1:], argument]
        if opcode.name == "STOP":
            return


def _read_argument(stream: io.BytesIO, opcode: Any, path: Path, position: int) -> Any:
    if opcode.arg is None:
        return None
    if opcode.name == "STRING":
        # pickletools decodes protocol-0 strings as ASCII, which images are not.
        return stream.readline()
    try:
        return opcode.arg.reader(stream)
    except Exception as error:
        raise BinError(
            f"{path}: truncated or damaged at byte {position:,} ({opcode.name}: {error}); copy it again"
        ) from None


def _refusal(path: Path, name: str, argument: Any, strings: list[str], position: int) -> str:
    wanted = str(argument).replace(" ", ".") if name in ("GLOBAL", "INST") else ".".join(strings)
    what = f" of {wanted}" if name in ("GLOBAL", "INST", "STACK_GLOBAL") else ""
    hint = "it could run code when loaded"
    if "numpy" in what:
        hint = "NumPy values pickle as objects: write it again as plain bool and bytes with facelib.sources.write_bin"
    elif "_codecs" in what:
        hint = "Python 3 wrote bytes with an old pickle protocol: write it again with facelib.sources.write_bin"
    return f"{path}: refused, the pickle holds more than plain data ({name}{what} at byte {position:,}); {hint}"


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
        if not isinstance(label, bool | int) or label not in (0, 1):
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
