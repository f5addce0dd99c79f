"""The one walk over folders of images: in a stable order, each image once, and a reason for whatever is left out.

Every file and link below a folder is either listed or reported: listed + left out = what is there. Links are not
followed unless that is asked for, and one that leads back into the folder never is. Files that systems put beside
images (names that begin with a dot, macOS's `._a.jpg` and `__MACOSX`, thumbnails in `@eaDir`) are hidden.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs

from facelib.data.images import IMAGE_SUFFIXES
from facelib.data.storage import Folder, storage_error

Skip = Callable[[str, str, str], None]
"""Called with (reason, path, detail) for everything that is left out."""

# Reasons that are a property of the folder, not damage.
HARMLESS = frozenset(
    {
        "not_a_picture_file",
        "hidden_file",
        "link_within_folder",
        "no_identity",
        "not_selected",
        "excluded",
        "in_several_pairs",
    }
)
_HIDDEN_FOLDERS = ("__MACOSX", "@eaDir")


def image_files(
    root: str | os.PathLike[str],
    skip: Skip,
    follow_links: bool = False,
    leave_out: Callable[[str], str] = lambda folder: "",
) -> Iterator[str]:
    """Paths of all images below a local folder, relative to it, with "/" between folders, in name order.

    Args:
        root: the folder.
        skip: told of everything else, with one of these reasons: not_a_picture_file, hidden_file, name_not_utf8,
            unreadable_folder (and nothing of what is in it), link_within_folder (what it points to is listed itself),
            outside_folder (a link that is not followed), missing_file (a link to nothing).
        follow_links: take links as what they point to, wherever that is; each folder is visited once.
        leave_out: path of a folder -> why it is left out as a whole, as one entry; "" to go on into it.
    """
    top = Path(os.path.realpath(root))
    seen: set[str] = {str(top)} if follow_links else set()  # resolved folders, and files that links point to
    pending = [(_scan(str(top), "", skip), "", str(top), False)]
    while pending:
        entries, prefix, folder, concealed = pending[-1]
        entry = next(entries, None)
        if entry is None:
            pending.pop()
            continue
        place, hidden = prefix + entry.name, concealed or is_hidden(entry.name)
        real = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder}/{entry.name}"
        reason, detail = "", ""
        if entry.is_symlink():
            reason, detail = ("hidden_file", "") if hidden else _link_problem(real, top, follow_links)
        if not reason and not entry.is_dir():
            reason, detail = _file_problem(entry, place, hidden)
        elif not reason and not hidden:
            reason, detail = leave_out(place), ""
        if not reason and follow_links and not hidden:
            reason, detail = _seen_already(entry, real, seen)
        if reason:
            skip(reason, printable(place), detail)
        elif entry.is_dir():
            pending.append((_scan(entry.path, place + "/", skip), place + "/", real, hidden))
        else:
            yield place


def sized_images(folder: Folder, skip: Skip, follow_links: bool = False) -> list[tuple[str, int]]:
    """Name and bytes of every image below a folder on any file system, names ascending; see `image_files`.

    Raises:
        DatasetError: remote storage that cannot be listed.
    """
    if isinstance(folder.fs, pafs.LocalFileSystem):
        files = []
        for place in image_files(folder.path, skip, follow_links):
            try:
                files.append((place, os.stat(f"{folder.path}/{place}").st_size))
            except OSError as error:
                skip("unreadable_file", place, str(error.strerror))
        return sorted(files)
    try:
        infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True))
    except OSError as error:
        raise storage_error(folder.uri, "listed", error) from None
    files, start = [], len(folder.path.rstrip("/")) + 1
    for info in infos:
        place = info.path[start:]
        if info.type != pafs.FileType.File:
            continue
        if any(map(is_hidden, place.split("/"))):
            skip("hidden_file", place, "")
        elif not is_image_name(place):
            skip("not_a_picture_file", place, "")
        else:
            files.append((place, info.size))
    return sorted(files)


def is_hidden(name: str) -> bool:
    """Whether the name of a file or folder says that it is not part of what people put there."""
    return name.startswith(".") or name in _HIDDEN_FOLDERS


def is_image_name(name: str) -> bool:
    """Whether a file's name ends as that of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_utf8(name: str) -> bool:
    """Whether a file name that Python gave is text; bytes that are not UTF-8 are carried along as surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(name: str) -> str:
    """A file name as it can be shown and stored: bytes that are not UTF-8 as `\\xe9`."""
    return name if is_utf8(name) else os.fsencode(name).decode("utf-8", "backslashreplace")


def is_inside(path: str, root: Path) -> bool:
    """Whether a resolved path is `root` or below it."""
    return os.path.commonpath([path, str(root)]) == str(root)


def _scan(folder: str, prefix: str, skip: Skip) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return iter(sorted(found, key=lambda entry: entry.name))
    except OSError as error:
        skip("unreadable_folder", printable(prefix.rstrip("/")) or ".", str(error.strerror))
        return iter(())


def _file_problem(entry: os.DirEntry[str], place: str, hidden: bool) -> tuple[str, str]:
    """Reason and detail why a file is left out; empty for an image."""
    if hidden:
        return "hidden_file", ""
    if not (is_image_name(entry.name) and entry.is_file()):
        return "not_a_picture_file", ""
    return ("", "") if is_utf8(place) else ("name_not_utf8", "rename the file or its folder")


def _seen_already(entry: os.DirEntry[str], real: str, seen: set[str]) -> tuple[str, str]:
    """Reason and detail where links lead to a folder or file a second time; else it is remembered."""
    linked = entry.is_symlink()
    if real in seen or (linked and os.path.dirname(real) in seen and is_image_name(real)):
        return "link_within_folder", f"{printable(real)} is listed already"
    if linked or entry.is_dir():
        seen.add(real)
    return "", ""


def _link_problem(target: str, root: Path, follow_links: bool) -> tuple[str, str]:
    """Reason and detail why a link to `target` is left out; empty where it is taken as what it points to."""
    shown, inside = printable(target), is_inside(target, root)
    if not (follow_links or inside):
        return "outside_folder", f"a link to {shown}; follow_links takes it"
    if not os.path.exists(target):
        return "missing_file", f"a link to {shown}, which is not there"
    if not follow_links:
        return "link_within_folder", f"a link to {shown}; follow_links takes it"
    if is_inside(str(root), Path(target)):
        return "link_within_folder", f"leads back to {shown}"
    parts = os.path.relpath(target, root).split("/")
    if inside and not any(map(is_hidden, parts)) and (os.path.isdir(target) or is_image_name(parts[-1])):
        return "link_within_folder", f"{shown} is listed itself"
    return "", ""
