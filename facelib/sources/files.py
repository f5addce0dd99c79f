"""Image files below a folder that a list names: found and read without leaving it."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from facelib.data.listing import is_inside, printable
from facelib.sources.source import UnreadableImageError

# Nothing that shows one face is larger; a file that is would only fill the memory.
MAX_BYTES = 64 << 20


def check_folder(path: str | os.PathLike[str], what: str) -> Path:
    """The folder, its links resolved; FileNotFoundError says what it should hold."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the one that holds {what}")
    return folder.resolve()


def locate(root: Path, path: str, follow_links: bool = False) -> str:
    """The place of an image that a list names: its path below `root`, the same however the list spells it.

    Args:
        root: resolved folder.
        path: relative to it, or absolute and below it; `./a.jpg`, `b/../a.jpg` and links within the folder are the
            `a.jpg` that they lead to. Lists from Windows may have backslashes, and those from macOS, or its archives,
            accents as characters of their own.
        follow_links: take links that lead out of the folder, too.

    Raises:
        UnreadableImageError: it leaves the folder, or does not exist.
    """
    given = next((p for p in (root / text for text in _spellings(path)) if os.path.lexists(p)), root / path)
    real = os.path.realpath(given)
    if is_inside(real, root):
        place = os.path.relpath(real, root)
    elif follow_links and is_inside(normal := os.path.normpath(given), root):
        place = os.path.relpath(normal, root)
    else:
        raise UnreadableImageError("outside_folder", f"it leads to {printable(real)}")
    if not os.path.isfile(real):
        raise UnreadableImageError("missing_file", "")
    return place


def _spellings(path: str) -> Iterator[str]:
    """The path as it stands, and as other systems write it."""
    for text in (path, path.replace("\\", "/")):
        yield text
        if not text.isascii():
            yield unicodedata.normalize("NFC", text)
            yield unicodedata.normalize("NFD", text)


def read_picture(root: Path, place: str, follow_links: bool = False) -> bytes:
    """Bytes of an image file below `root`.

    Raises:
        UnreadableImageError: it is missing, unreadable, empty, larger than 64 MiB, or not below `root`.
    """
    path = root / place
    if not follow_links and not is_inside(os.path.realpath(path), root):
        raise UnreadableImageError("outside_folder", f"it leads to {os.path.realpath(path)}")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UnreadableImageError("missing_file", "it was listed but is gone") from None
    except OSError as error:
        raise UnreadableImageError("unreadable_file", str(error.strerror)) from None
    if not data:
        raise UnreadableImageError("empty_file", "0 bytes")
    if len(data) > MAX_BYTES:
        raise UnreadableImageError("file_too_large", f"more than {MAX_BYTES >> 20} MiB")
    return data
