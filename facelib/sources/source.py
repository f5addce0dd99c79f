"""What every source of identities's own images offers, and the registry that finds one by name.

A source lists its images once (`index`), with the person each one shows, and then reads any of them by its entry
(`read`), in any process. Decoding, alignment, filtering and writing are not its task.

To add a source, write one file:

    from facelib.sources import Entry, FaceSource, IndexBuilder, SourceIndex, register_source

    @register_source("mine")
    class MySource(FaceSource):
        def __init__(self, path: str, split: str = "train") -> None: ...

        def index(self) -> SourceIndex:
            builder = IndexBuilder()
            for person, file in ...:
                builder.add(person, file)          # or builder.skip("damaged_line", place, detail)
            return builder.build()

        def read(self, entry: Entry) -> bytes:     # or raise UnreadableImageError("damaged_file", "why")
            return (self.folder / entry.place).read_bytes()

or, from a package of your own, name the class in its pyproject.toml and skip the decorator:

    [project.entry-points."facelib.sources"]
    mine = "my_package.my_module:MySource"

Then `--import_data.source mine --import_data.path … --import_data.options '{"split": "test"}'`. Options are the keyword
arguments of the constructor, besides `path`.

Shape legend: I identities, M images, P pairs.
"""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from facelib.data.listing import HARMLESS, is_utf8, printable
from facelib.utils.registry import Factory, Registry


class SourceError(ValueError):
    """A source that cannot be used at all."""


class UnreadableImageError(ValueError):
    """One image that cannot be read.

    Args:
        reason: one of few words, it is counted: "damaged_record", "outside_folder".
        detail: what was found.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Skipped:
    """What was left out, why, and where it stands in the source.

    Args:
        reason: one of few words, it is counted: "damaged_record".
        damage: something is wrong with the source, and a strict import refuses it; else it merely was not wanted.
        count: how many images it stands for, where they have no places of their own.
    """

    reason: str
    place: str
    detail: str = ""
    damage: bool = False
    count: int = 1

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Entry:
    """One image of a source.

    Args:
        identity: number of the person, counted from 0 in the source's order.
        name: the person's name in the source.
        index: number of the image within its identity.
        place: where it lies, unique in the source, as messages name it: a path, "record 17".
        offset: a number of the source's own, such as a byte position.
        landmarks: float32 [5, 2] in pixels of the image where the source knows them; NaN where it knows only others'.
        score: a detector's score that came with the landmarks, 0..1; NaN without.
        landmark_place: the image whose landmarks hold for this one too (fixed cameras); "" for its own.
    """

    identity: int
    name: str
    index: int
    place: str
    offset: int = 0
    landmarks: NDArray[np.float32] | None = None
    score: float = float("nan")
    landmark_place: str = ""


@dataclass(frozen=True)
class PairList:
    """Verification pairs of a source's images: places of both, and whether they show one person (bool [P])."""

    name: str
    first: list[str]
    second: list[str]
    issame: NDArray[np.bool_]


@dataclass
class SourceIndex:
    """All images of a source, identities ascending.

    Args:
        names: name of each identity, [I]; its position is its number.
        identities: int64 [M], ascending.
        places: pyarrow string array [M].
        offsets: int64 [M], or None.
        landmarks: float32 [M, 5, 2], or None.
        scores: float32 [M], or None.
        landmark_places: pyarrow string array [M], or None.
        skipped: what listing left out.
    """

    names: list[str]
    identities: NDArray[np.int64]
    places: pa.Array
    offsets: NDArray[np.int64] | None = None
    landmarks: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    landmark_places: pa.Array | None = None
    skipped: list[Skipped] = field(default_factory=list)

    def __post_init__(self) -> None:
        if len(self.identities) != len(self.places) or np.any(np.diff(self.identities) < 0):
            raise ValueError("index: identities must ascend and be as many as places")
        self._starts = np.searchsorted(self.identities, np.arange(len(self.names) + 1))

    def __len__(self) -> int:
        return len(self.identities)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Images of each identity, int64 [I]."""
        return np.diff(self._starts)

    @property
    def first_offsets(self) -> NDArray[np.int64]:
        """Offset of each identity's first image, int64 [I]; only of a source that has offsets."""
        assert self.offsets is not None
        return self.offsets[self._starts[:-1]]

    def entries(self, begin: int, end: int) -> list[Entry]:
        """Entries `begin` … `end − 1`."""
        places = self.places.slice(begin, end - begin).to_pylist()
        borrowed = None
        if self.landmark_places is not None:
            borrowed = self.landmark_places.slice(begin, end - begin).to_pylist()
        found = []
        for i, place in zip(range(begin, end), places, strict=True):
            identity = int(self.identities[i])
            found.append(
                Entry(
                    identity=identity,
                    name=self.names[identity],
                    index=i - int(self._starts[identity]),
                    place=place,
                    offset=0 if self.offsets is None else int(self.offsets[i]),
                    landmarks=None if self.landmarks is None else self.landmarks[i],
                    score=float("nan") if self.scores is None else float(self.scores[i]),
                    landmark_place=borrowed[i - begin] if borrowed else "",
                )
            )
        return found

    def split(self, pictures: int) -> list[tuple[int, int]]:
        """Ranges of entries of about `pictures` each, cut between identities: (begin, end) of every one."""
        cuts, begin = [], 0
        for end in self._starts[1:].tolist():
            if end - begin >= pictures:
                cuts.append((begin, end))
                begin = end
        if begin < len(self):
            cuts.append((begin, len(self)))
        return cuts

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what is listed, 32 characters: another list gives other faces."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        for array in (self.identities, self.offsets, self.landmarks, self.scores):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
        for texts in (self.places, self.landmark_places):
            digest.update(b"-" if texts is None else "\0".join(texts.to_pylist()).encode())
        return digest.hexdigest()[:32]


class IndexBuilder:
    """Collects entries in any order and sorts them: identities by name, images by place.

    Args:
        numeric: sort names and places by the numbers in them: "2" before "10".
    """

    def __init__(self, numeric: bool = False) -> None:
        self._key: Callable[[str], Any] = numeric_order if numeric else str
        self._rows: dict[str, tuple[str, int, Any, float, str]] = {}
        self.skipped: list[Skipped] = []

    def add(
        self,
        name: str,
        place: str,
        offset: int = 0,
        landmarks: NDArray[np.float32] | None = None,
        score: float = float("nan"),
        landmark_place: str = "",
    ) -> None:
        """List an image; one that is listed already, or whose name is no text, is counted as skipped."""
        if not (is_utf8(name) and is_utf8(place)):
            self.skip("name_not_utf8", printable(place), "rename the file")
            return
        if place in self._rows:
            taken = self._rows[place][0]
            reason = "listed_twice" if taken == name else "two_identities"
            self.skip(reason, place, f"kept under {taken!r}")
            return
        self._rows[place] = (name, offset, landmarks, score, landmark_place)

    def skip(self, reason: str, place: str, detail: str = "") -> None:
        """Leave something out, and say so."""
        self.skipped.append(Skipped(reason, place, detail, damage=reason not in HARMLESS))

    def build(self) -> SourceIndex:
        """The sorted index."""
        names = sorted({row[0] for row in self._rows.values()}, key=self._key)
        number = {name: i for i, name in enumerate(names)}
        order = sorted(self._rows, key=lambda place: (number[self._rows[place][0]], self._key(place)))
        rows = [self._rows[place] for place in order]
        unknown = np.full((5, 2), np.nan, np.float32)
        with_landmarks = any(row[2] is not None for row in rows)
        return SourceIndex(
            names=names,
            identities=np.array([number[row[0]] for row in rows], np.int64),
            places=pa.array(order, pa.string()),
            offsets=np.array([row[1] for row in rows], np.int64),
            landmarks=np.stack([unknown if row[2] is None else row[2] for row in rows]) if with_landmarks else None,
            scores=np.array([row[3] for row in rows], np.float32) if with_landmarks else None,
            landmark_places=pa.array([row[4] for row in rows], pa.string()) if any(row[4] for row in rows) else None,
            skipped=self.skipped,
        )


class FaceSource(ABC):
    """A set of images with known identities. It is pickled to the workers that read: keep it small, paths absolute.

    Attributes:
        alignment: what its images need: "none" (crops on the template already), "given" (it knows landmarks), or
            "detect".
        several_paths: whether its `path` may also be a list of paths.
    """

    alignment: str = "detect"
    several_paths: bool = False

    @abstractmethod
    def index(self) -> SourceIndex:
        """List all images.

        Raises:
            FileNotFoundError, SourceError: there is nothing to list.
        """

    @abstractmethod
    def read(self, entry: Entry) -> bytes:
        """The encoded image of an entry.

        Raises:
            UnreadableImageError: this one cannot be read.
        """

    def pair_lists(self) -> list[PairList]:
        """Verification pairs to be written as `.bin` files beside the dataset."""
        return []


_REGISTRY = Registry(
    "source",
    "facelib.sources",
    {
        "bin": "facelib.sources.bin_source",
        "folders": "facelib.sources.folders",
        "ijb": "facelib.sources.ijb_source",
        "kface": "facelib.sources.kface_source",
        "lfw": "facelib.sources.lfw",
        "recordio": "facelib.sources.recordio_source",
    },
)


def register_source(name: str) -> Callable[[Factory], Factory]:
    """Class decorator: makes `build_source(name, path, **options)` call the class.

    Raises:
        ValueError: another class already has the name.
    """
    return _REGISTRY.register(name)


def available_sources() -> list[str]:
    """Names `build_source` knows: registered, built in and from entry points, sorted."""
    return _REGISTRY.names()


def build_source(name: str, path: str | Sequence[str], **options: Any) -> FaceSource:
    """The source called `name` on `path`, or on several where it takes them (recordio).

    Raises:
        ValueError: unknown name, unknown or missing option (the message lists what exists), a value it refuses, or
            several paths for a source of one.
        FileNotFoundError: nothing at `path`.
    """
    if not isinstance(path, str) and not getattr(_REGISTRY.find(name), "several_paths", False):
        if len(path) != 1:
            raise ValueError(f"source {name!r} takes one path, not {len(path)}")
        [path] = path
    return cast(FaceSource, _REGISTRY.build(name, path=path, **options))


def count_skipped(skipped: Sequence[Skipped]) -> dict[str, int]:
    """How many were left out for each reason, reasons in alphabetical order."""
    counts: Counter[str] = Counter()
    for s in skipped:
        counts[s.reason] += s.count
    return dict(sorted(counts.items()))


def numeric_order(text: str) -> tuple[Any, ...]:
    """Sort key that counts: "img2" before "img10". Ties, as "01" and "1", are broken by the text itself."""
    pieces = re.split(r"(\d+)", text)
    return (*((0, int(p), "") if i % 2 else (1, 0, p) for i, p in enumerate(pieces)), (2, 0, text))
