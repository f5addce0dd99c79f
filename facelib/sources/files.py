"""Image files below a folder: listed without following links out of it, read without leaving it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from facelib.data import IMAGE_SUFFIXES
from facelib.sources.source import Skipped, UnreadableImageError

# Nothing that shows one face is larger; a file that is would only fill the memory.
MAX_BYTES = 64 << 20

Skip = Callable[[str, str, str], None]


def check_folder(path: str | os.PathLike[str], what: str) -> Path:
    """The folder, its links resolved; FileNotFoundError says what it should hold."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the one that holds {what}")
    return folder.resolve()


def picture_files(root: Path, skip: Skip, follow_links: bool = False) -> Iterator[str]:
    """Paths of all images below `root`, relative to it, with "/" between folders, in name order.

    Args:
        root: resolved folder.
        skip: called with (reason, path, detail) for everything that is left out.
        follow_links: take links as what they point to, wherever that is; each folder is visited once.
    """
    visited: set[str] = {str(root)}

    def walk(folder: Path, prefix: str) -> Iterator[str]:
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            skip("unreadable_folder", prefix.rstrip("/") or ".", str(error.strerror))
            return
        for entry in entries:
            place = prefix + entry.name
            if entry.is_symlink() and not follow_links:
                target = os.path.realpath(entry.path)
                inside = is_inside(target, root)
                reason = "link_within_folder" if inside else "outside_folder"
                skip(reason, place, f"a link to {target}; follow_links takes it")
            elif entry.is_dir():
                real = os.path.realpath(entry.path)
                if real in visited:
                    skip("link_within_folder", place, f"{real} was visited already")
                    continue
                visited.add(real)
                yield from walk(Path(entry.path), place + "/")
            elif entry.name.lower().endswith(IMAGE_SUFFIXES) and not entry.name.startswith(".") and entry.is_file():
                yield place
            else:
                skip("not_a_picture_file", place, "")

    yield from walk(root, "")


def is_inside(path: str, root: Path) -> bool:
    """Whether a resolved path is below `root`."""
    return os.path.commonpath([path, str(root)]) == str(root)


def locate(root: Path, place: str) -> Skipped | None:
    """Why a listed path cannot be taken: it leaves the folder or does not exist; None when it can."""
    real = os.path.realpath(root / place)
    if os.path.isabs(place) or not is_inside(real, root):
        return Skipped("outside_folder", place, f"it leads to {real}", True)
    if not os.path.isfile(real):
        return Skipped("missing_file", place, "", True)
    return None


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
