"""Images in folders: a folder for each person, deeper trees, flat folders with a list file, DigiFace-1M.

`folders`: <person>/<image>, images anywhere below the person's folder. `level` says how many folder names make a
person: 2 for train/<person>/…; 0 takes the folder that holds the image, whatever its depth.
`flat`: no person is known, every image is one.
`list`: a text file with a line for each image, see `facelib.sources.list_files`; images are relative to the folder, or
absolute and inside it.
`digiface`: DigiFace-1M as its zip files unpack, together or each into a folder of its own: <subject>/<n>.png with
numbers for names. A subject's number is the same person wherever it stands.
"""

from __future__ import annotations

from typing import Literal, get_args

from facelib.data.listing import image_files
from facelib.sources.files import check_folder, locate, read_picture
from facelib.sources.list_files import ListLine, list_alignment, read_list
from facelib.sources.source import (
    Entry,
    FaceSource,
    IndexBuilder,
    SourceError,
    SourceIndex,
    UnreadableImageError,
    register_source,
)

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
            self.alignment = list_alignment(self.list)

    def index(self) -> SourceIndex:
        """List all images; `SourceError` when there is none."""
        builder = IndexBuilder(numeric=self.layout == "digiface")
        if self.layout == "list":
            self._read_list(builder)
        else:
            for place in image_files(self.folder, builder.skip, self.follow_links):
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
        for number, row in read_list(self.list):
            where = f"{self.list.name}, line {number}"
            if not isinstance(row, ListLine):
                builder.skip("damaged_line", where, row)
                continue
            try:
                place = locate(self.folder, row.path, self.follow_links)
            except UnreadableImageError as problem:
                builder.skip(problem.reason, f"{row.path} ({where})", problem.detail)
                continue
            builder.add(row.identity, place, number, row.landmarks, row.score)
