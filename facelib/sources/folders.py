"""Images in folders: a folder for each person, deeper trees, flat folders with a list file, DigiFace-1M.

`folders`: <person>/<image>, images anywhere below the person's folder. `level` says how many folder names make a
person: 2 for train/<person>/…; 0 takes the folder that holds the image, whatever its depth.
`flat`: no person is known, every image is one.
`list`: a text file with lines "image person", or "image person x1 y1 … x5 y5 [score]" with landmarks in pixels;
fields are separated by tabs, commas or blanks, images are relative to the folder.
`digiface`: DigiFace-1M as its zip files unpack, together or each into a folder of its own: <subject>/<n>.png with
numbers for names. A subject's number is the same person wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from facelib.sources.files import check_folder, locate, picture_files, read_picture
from facelib.sources.source import Entry, FaceSource, IndexBuilder, SourceError, SourceIndex, register_source

Layout = Literal["folders", "flat", "list", "digiface"]


@register_source("folders")
class FolderSource(FaceSource):
    """Images in folders.

    Args:
        path: the folder.
        layout: see above.
        level: for `folders`: how many folder names make a person (0: all of them).
        list: for `list`: the list file, relative to the folder or absolute.
        follow_links: take symbolic links as what they point to, also outside the folder.

    Raises:
        FileNotFoundError: no such folder or list file.
        SourceError: an option out of range, or an empty list file.
    """

    def __init__(
        self, path: str, layout: Layout = "folders", level: int = 1, list: str = "", follow_links: bool = False
    ) -> None:
        if layout not in get_args(Layout):
            raise SourceError(f"layout is {layout!r}: choose one of {', '.join(get_args(Layout))}")
        if not 0 <= level <= 16:
            raise SourceError(f"level is {level}: how many folder names make a person, 0 to 16")
        if bool(list) != (layout == "list"):
            raise SourceError(f"layout is {layout!r} and list is {list!r}: a list file goes with layout 'list' only")
        self.folder = check_folder(path, "the pictures")
        self.layout, self.level, self.follow_links = layout, level, follow_links
        self.list = self.folder / list
        if layout == "list":
            self.alignment = "given" if _has_landmarks(self.list) else "detect"

    def index(self) -> SourceIndex:
        """List all images; `SourceError` when there is none."""
        builder = IndexBuilder(numeric=self.layout == "digiface")
        if self.layout == "list":
            self._read_list(builder)
        else:
            for place in picture_files(self.folder, builder.skip, self.follow_links):
                person = self._person(place)
                if person is None:
                    builder.skip("no_identity", place, f"layout {self.layout}, level {self.level}")
                else:
                    builder.add(person, place)
        index = builder.build()
        if not len(index):
            raise SourceError(
                f"{self.folder}: no pictures in the layout {self.layout!r}"
                + (
                    f"; {len(index.skipped)} files were left out, the first is {index.skipped[0]}"
                    if index.skipped
                    else ""
                )
            )
        return index

    def read(self, entry: Entry) -> bytes:
        """The file's bytes."""
        return read_picture(self.folder, entry.place, self.follow_links)

    def _person(self, place: str) -> str | None:
        folders = place.split("/")[:-1]
        if self.layout == "flat":
            return place
        if self.layout == "digiface":
            return str(int(folders[-1])) if folders and folders[-1].isdecimal() else None
        if len(folders) < max(self.level, 1):
            return None
        return "/".join(folders[: self.level] if self.level else folders)

    def _read_list(self, builder: IndexBuilder) -> None:
        for number, fields in _lines(self.list):
            where = f"{self.list.name}, line {number}"
            try:
                place, person = fields[:2]
                values = np.array(fields[2:], np.float32)
            except ValueError:
                builder.skip("damaged_line", where, " ".join(fields)[:80])
                continue
            if len(values) not in (0, 10, 11) or not np.isfinite(values).all():
                builder.skip(
                    "damaged_line", where, f"expected: picture person [x1 y1 … x5 y5 [score]], {len(fields)} fields"
                )
                continue
            problem = None if self.follow_links else locate(self.folder, place)
            if problem is not None:
                builder.skip(problem.reason, f"{place} ({where})", problem.detail)
                continue
            landmarks = values[:10].reshape(5, 2) if len(values) else None
            builder.add(person, place, number, landmarks, float(values[10]) if len(values) == 11 else float("nan"))


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbered lines of a list file as fields; blank lines are passed over."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            mark = next((mark for mark in "\t," if mark in line), None)
            fields = [field.strip() for field in line.strip().split(mark)]
            if fields != [""] and fields:
                yield number, fields


def _has_landmarks(path: Path) -> bool:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such list file; its lines are: picture person")
    first = next(_lines(path), None)
    if first is None:
        raise SourceError(f"{path}: an empty list file; its lines are: picture person")
    return len(first[1]) >= 12
