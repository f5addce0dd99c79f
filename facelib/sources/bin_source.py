"""Verification sets (`.bin`) as a source of faces, for training that needs no complete labels.

A set knows pairs, not identities. Who is joined by genuine pairs, or by the very same image, is one identity here; two
identities may still be one person, of whom no genuine pair says so.

M images.
"""

from __future__ import annotations

import numpy as np

from facelib.sources.bins import bin_paths, read_bin
from facelib.sources.groups import joined_groups
from facelib.sources.source import Entry, FaceSource, IndexBuilder, SourceIndex, register_source


@register_source("bin")
class BinSource(FaceSource):
    """The images of `a.bin`, or of `a.bin+b.bin`: crops on the template already.

    Raises:
        FileNotFoundError: no such file.
        BinError: a damaged file.
    """

    alignment = "none"

    def __init__(self, path: str) -> None:
        self._images: list[bytes] = []
        genuine = []
        for file in bin_paths(path):
            images, issame = read_bin(file)
            genuine += [(len(self._images) + 2 * i, len(self._images) + 2 * i + 1) for i in np.flatnonzero(issame)]
            self._images += images
        self._genuine = genuine

    def index(self) -> SourceIndex:
        """List every image once, whatever the number of pairs it stands in."""
        builder = IndexBuilder(numeric=True)
        first: dict[bytes, int] = {}
        same = [first.setdefault(image, i) for i, image in enumerate(self._images)]
        pairs = np.array([*self._genuine, *enumerate(same)], np.int64).reshape(-1, 2)
        for i, group in enumerate(joined_groups(len(self._images), pairs).tolist()):
            if same[i] == i:
                builder.add(f"group {group}", f"image {i}", i)
            else:
                builder.skip("in_several_pairs", f"image {i}", f"the same bytes as image {same[i]}")
        return builder.build()

    def read(self, entry: Entry) -> bytes:
        """The encoded image."""
        return self._images[entry.offset]
