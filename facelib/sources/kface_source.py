"""K-FACE as a source: chosen variances, test identities held out, one set of landmarks for an identity and pose.

The published training sets T1 to T4 by name, or selections of one's own. Align with `align.template arcface-padded`, as
the published crops are; crops that exist already need `import_data.alignment none`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from facelib.sources.files import locate, read_picture
from facelib.sources.kface import KFace, landmark_picture, read_kface_names, read_kface_pairs
from facelib.sources.source import (
    Entry,
    FaceSource,
    IndexBuilder,
    PairList,
    SourceError,
    SourceIndex,
    UnreadableImageError,
    register_source,
)

# Images with the 370 training identities: 2,590, 46,620, 654,160 and 3,862,800.
TRAINING_SETS = {
    "T1": "s1 l1 e1 c4~10",
    "T2": "s1~2 l1~2,8,12,16,19,22,25,28 e1 c4~10",
    "T3": "s1~4 l1~3,8~9,12~13,16~17,19~20,22~23,25~26,28~29 e1~2 c1~13",
    "T4": "s1~6 l1~6,8~30 e1~3 c1~20",
}


@register_source("kface")
class KFaceSource(FaceSource):
    """Images of a K-FACE folder.

    Args:
        path: folder that holds a folder for each identity.
        select: T1, T2, T3, T4, or a selection "s1~6 l1~6,8~30 e1~3 c1~20" (accessories, luxes, expressions, poses).
        exclude: file with the identities to leave out, see `read_kface_names`: the 30 test identities.
        pairs: pair lists (Q1 to Q4): then only their images are listed, and their pairs given. `select` and `exclude`
            have no part in it.

    Raises:
        FileNotFoundError: no such folder or file.
        SourceError, KFaceError: a selection that does not exist.
    """

    def __init__(self, path: str, select: str = "T4", exclude: str = "", pairs: Sequence[str] = ()) -> None:
        self.root = Path(path).resolve()
        left_out = read_kface_names(exclude) if exclude else []
        self._pairs = {Path(file).stem: read_kface_pairs(file) for file in pairs}
        if len(self._pairs) < len(pairs):
            raise SourceError(f"pairs: two of {', '.join(pairs)} have one name; each becomes a .bin of its name")
        self._wanted = {place for first, second, _ in self._pairs.values() for place in (*first, *second)}
        chosen = TRAINING_SETS["T4"] if self._wanted else TRAINING_SETS.get(select, select)
        parts = chosen.split()
        if [part[:1].lower() for part in parts] != list("slec"):
            raise SourceError(f"select is {select!r}: choose T1 to T4, or write for instance {TRAINING_SETS['T4']!r}")
        self._select, self._exclude = parts, () if self._wanted else left_out
        # A wrong selection is told now; listing, which looks into every folder, is left to `index`.
        KFace.check(self.root, *parts)

    def index(self) -> SourceIndex:
        """List the chosen images; an image that a pair names and that is not there counts as skipped."""
        builder = IndexBuilder(numeric=True)
        if self._wanted:
            for place in sorted(self._wanted):
                try:
                    locate(self.root, place)
                except UnreadableImageError as problem:
                    builder.skip(problem.reason, place, "named by a pair")
                    continue
                builder.add(place.split("/")[0], place, landmark_place=landmark_picture(place))
            return builder.build()
        accessories, luxes, expressions, poses = self._select
        kface = KFace(self.root, accessories, luxes, expressions, poses, self._exclude, builder.skip)
        for place, number in zip(kface.paths, kface.classes.tolist(), strict=True):
            builder.add(kface.names[number], place, landmark_place=landmark_picture(place))
        return builder.build()

    def read(self, entry: Entry) -> bytes:
        """The file's bytes."""
        return read_picture(self.root, entry.place)

    def pair_lists(self) -> list[PairList]:
        """The pair lists."""
        return [PairList(name, *pairs) for name, pairs in self._pairs.items()]
