"""IJB-B and IJB-C images as a source, aligned by the landmarks that come with them.

The 1:1 protocol names no identities: templates joined by genuine pairs are one subject. Images stand in several
templates; each is taken once for its subject. These sets are for judging; a model must not be trained on what it is
judged by.

T templates.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from facelib.sources.files import check_folder, locate, read_picture
from facelib.sources.groups import joined_groups
from facelib.sources.ijb import IJBMetadata, ijb_files
from facelib.sources.source import (
    Entry,
    FaceSource,
    IndexBuilder,
    SourceError,
    SourceIndex,
    UnreadableImageError,
    register_source,
)


@register_source("ijb")
class IJBSource(FaceSource):
    """Images of an IJB release.

    Args:
        path: folder that holds `meta` and `loose_crop`, see `IJBMetadata`.
        subset: "ijbb" or "ijbc", where the folder holds both.
        identities: `subjects` (templates joined by genuine pairs) or `templates`.

    Raises:
        FileNotFoundError, IJBError: no metadata here, or that of two sets.
        SourceError: an unknown kind of identities.
    """

    def __init__(self, path: str, subset: str = "", identities: Literal["subjects", "templates"] = "subjects") -> None:
        if identities not in ("subjects", "templates"):
            raise SourceError(f"identities is {identities!r}: choose subjects or templates")
        self.root = check_folder(path, "an IJB release")
        self.subset, self.by_subject = subset or None, identities == "subjects"
        # Workers need none of the millions of pairs: they are read by `index` only.
        if ijb_files(self.root, self.subset).landmarks.is_file():
            self.alignment = "given"

    def index(self) -> SourceIndex:
        """List every image of every subject once."""
        metadata = IJBMetadata(self.root, self.subset)
        builder = IndexBuilder(numeric=True)
        folder = metadata.image_folder.relative_to(self.root)
        templates, number = np.unique(metadata.templates, return_inverse=True)
        names = [f"template {template}" for template in templates.tolist()]
        if self.by_subject:
            genuine = np.stack([metadata.first[metadata.labels], metadata.second[metadata.labels]], axis=1)
            groups = joined_groups(len(templates), np.searchsorted(templates, genuine))
            names = [f"subject {group}" for group in groups.tolist()]
        for i, path in enumerate(metadata.paths):
            place = (folder / path).as_posix()
            try:
                place = locate(self.root, place)
            except UnreadableImageError as problem:
                builder.skip(problem.reason, place, problem.detail)
                continue
            landmarks = None if metadata.landmarks is None else metadata.landmarks[i]
            score = float("nan") if metadata.scores is None else float(metadata.scores[i])
            builder.add(names[number[i]], place, i, landmarks, score)
        return builder.build()

    def read(self, entry: Entry) -> bytes:
        """The file's bytes."""
        return read_picture(self.root, entry.place)
