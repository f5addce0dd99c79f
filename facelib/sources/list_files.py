"""List files: a line for each image.

A line is "image identity", or "image identity x1 y1 … x5 y5 [score]" with landmarks in pixels; fields are separated by
tabs, commas or blanks. MXNet's `.lst` files have tabs and another order: "index label image" (`im2rec`), or
"aligned image label" (insightface), followed by a box and landmarks x1 … x5 y1 … y5 or nothing.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.sources.source import SourceError
from facelib.utils.text_files import read_lines

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


@dataclass(frozen=True)
class ListLine:
    """An image of a list.

    Args:
        path: as the list spells it.
        identity: its name.
        landmarks: float32 [5, 2] in pixels; None: the line has none.
        score: a detector's score, NaN where the line has none.
        aligned: the list says that the image is a crop already.
    """

    path: str
    identity: str
    landmarks: NDArray[np.float32] | None = None
    score: float = float("nan")
    aligned: bool = False


def read_list(path: Path) -> Iterator[tuple[int, ListLine | str]]:
    """Numbered lines of a list file; text says what is wrong with a line.

    Raises:
        FileNotFoundError: no such file.
        TextFileError: it is not UTF-8 text; single names that are not are carried along.
    """
    parse = _line_parser(path)
    for number, fields in _fields(path):
        yield number, parse(fields)


def list_alignment(path: Path) -> str:
    """What the images of a list need, by its first line: "none" (crops), "given" (landmarks), or "detect".

    Raises:
        FileNotFoundError: no such file.
        SourceError: no line in it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list file; its lines are: picture person")
    first = next((row for _, row in read_list(path)), None)
    if first is None:
        raise SourceError(f"{path}: an empty list file; its lines are: picture person")
    if not isinstance(first, ListLine):
        return "detect"
    return "none" if first.aligned else "detect" if first.landmarks is None else "given"


def _line_parser(path: Path) -> Callable[[list[str]], ListLine | str]:
    """The parser for a file's format, which a `.lst` file tells by its first line."""
    if path.suffix.lower() != ".lst":
        return _plain
    first = next((fields for _, fields in _fields(path)), [])
    if len(first) < 3 or not _NUMBER.fullmatch(first[0]):
        return _plain
    return _insightface if not _NUMBER.fullmatch(first[1]) else _im2rec


def _fields(path: Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in read_lines(path, escape=True):
        mark = next((mark for mark in "\t," if mark in line), None)
        # Tables put quotes around a field that holds a comma.
        fields = next(csv.reader([line.strip()])) if mark == "," and '"' in line else line.strip().split(mark)
        yield number, [field.strip() for field in fields]


def _plain(fields: list[str]) -> ListLine | str:
    try:
        place, identity = fields[:2]
        values = np.array(fields[2:], np.float32)
    except ValueError:
        return " ".join(fields)[:80]
    if not (place and identity) or len(values) not in (0, 10, 11) or not np.isfinite(values).all():
        return f"expected: picture person [x1 y1 … x5 y5 [score]], {len(fields)} fields"
    landmarks = values[:10].reshape(5, 2) if len(values) else None
    return ListLine(place, identity, landmarks, float(values[10]) if len(values) == 11 else float("nan"))


def _insightface(fields: list[str]) -> ListLine | str:
    try:
        aligned, place, label = fields[:3]
        values = np.array(fields[3:], np.float32)
        crop, identity = bool(float(aligned)), _label(label)
    except ValueError:
        return " ".join(fields)[:80]
    if not place or len(values) not in (0, 4, 14) or not np.isfinite(values).all():
        return f"expected: aligned picture label [box [landmarks]], {len(fields)} fields"
    return ListLine(place, identity, values[4:].reshape(2, 5).T if len(values) == 14 else None, aligned=crop)


def _im2rec(fields: list[str]) -> ListLine | str:
    try:
        _, label, *others, place = fields
        identity = _label(label)
        np.array(others, np.float32)
    except ValueError:
        return " ".join(fields)[:80]
    return ListLine(place, identity) if place else "expected: index label picture"


def _label(text: str) -> str:
    """A label as an identity's name: `im2rec` writes 7 as 7.000000."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a label")
    return str(int(value)) if value.is_integer() else text
