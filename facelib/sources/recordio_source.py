"""MXNet RecordIO face sets as a source: one file or several, with or without an index and identity records.

Identities are the labels of the image records. Where the set has identity records, one image of each range is looked
at; otherwise the first bytes of every record are. A record whose label differs from what was listed is damage: the
index or the identity records belong to another file.

M image records.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from facelib.data.listing import is_hidden
from facelib.sources.record_file import RecordFile, RecordIOError
from facelib.sources.recordio import RecordIOReader
from facelib.sources.source import (
    Entry,
    FaceSource,
    Skipped,
    SourceError,
    SourceIndex,
    UnreadableImageError,
    register_source,
)

NO_LABEL = np.iinfo(np.int64).min


@register_source("recordio")
class RecordIOSource(FaceSource):
    """The image records of one or several `.rec` files. Their images are crops on the template already.

    Args:
        path: a `.rec` file, a folder that holds one, a pattern such as `/data/*/train.rec`, or a list of these. The
            files of a pattern are taken in name order.
        idx: the `.idx` file, one for each `.rec` file; "" takes those of the same names. Without any, the records are
            found by streaming through the file.
        use_index: false leaves the index aside; for an index that belongs to another file, or lists too little.
        identities: of several files. `separate`: one label in two files means two identities, named `0_17` and `1_17`
            as insightface's rec2image numbers its sets; `merged`: one label is one identity, whatever the file.

    Raises:
        FileNotFoundError: no such file.
        SourceError: a folder with several `.rec` files, a pattern that fits none, a file given twice, or one of another
            kind.
        ValueError: as many indexes as files are needed, or an unknown way to number identities.
    """

    alignment = "none"
    several_paths = True

    def __init__(
        self,
        path: str | Sequence[str],
        idx: str | Sequence[str] = "",
        use_index: bool = True,
        identities: str = "separate",
    ) -> None:
        if identities not in ("separate", "merged"):
            raise ValueError(f"identities is {identities!r}: choose 'separate' or 'merged'")
        recs = find_recs([path] if isinstance(path, str) else path)
        indexes = [""] * len(recs) if not idx else [idx] if isinstance(idx, str) else list(idx)
        if len(indexes) != len(recs):
            raise ValueError(f"idx: {len(indexes)} files for {len(recs)} .rec files; give one for each, in their order")
        self.sets = [RecordIOSet(rec, index, use_index) for rec, index in zip(recs, indexes, strict=True)]
        self.merged = identities == "merged"
        # An image's offset is its byte position in the files laid end to end.
        self._begins = np.cumsum([0, *(one.file.size for one in self.sets[:-1])])
        shared = os.path.commonpath([rec.absolute().parent for rec in recs])
        self.names = [rec.absolute().relative_to(shared).as_posix() for rec in recs]

    def index(self) -> SourceIndex:
        """List the image records by label, in the order of record numbers.

        Raises:
            RecordIOError: an index that is none.
            SourceError: no image record at all.
        """
        indexes = [one.index() for one in self.sets]
        return indexes[0] if len(indexes) == 1 else self._joined(indexes)

    def read(self, entry: Entry) -> bytes:
        """The encoded image of a record."""
        number = int(np.searchsorted(self._begins, entry.offset, "right")) - 1
        own = replace(entry, offset=entry.offset - int(self._begins[number]), name=self._label(entry.name))
        return self.sets[number].read(own)

    def rec2image_names(self, index: SourceIndex) -> list[str]:
        """Folder of each identity of `index` as insightface's rec2image names it: `<file>_<identity record>`.

        A file without (usable) identity records has the label in its place.
        """
        offsets = index.first_offsets
        numbers = np.searchsorted(self._begins, offsets, "right") - 1
        keys = np.full(len(offsets), NO_LABEL)
        for number, one in enumerate(self.sets):
            own = numbers == number
            keys[own] = one.identity_records(offsets[own] - self._begins[number])
        labels = [self._label(name) for name in index.names]
        return [
            f"{number}_{label if key == NO_LABEL else key}"
            for number, key, label in zip(numbers.tolist(), keys.tolist(), labels, strict=True)
        ]

    def _label(self, name: str) -> str:
        """The label of an identity's images, which its name contains."""
        return name.partition("_")[2] if len(self.sets) > 1 and not self.merged else name

    def _joined(self, indexes: list[SourceIndex]) -> SourceIndex:
        """One index of several, images of an identity in the order of the files."""
        if self.merged:
            names = [str(label) for label in sorted({int(name) for index in indexes for name in index.names})]
        else:
            names = [f"{number}_{name}" for number, index in enumerate(indexes) for name in index.names]
        position = {name: i for i, name in enumerate(names)}
        identities, places, offsets, skipped = [], [], [], []
        for number, index in enumerate(indexes):
            prefix = "" if self.merged else f"{number}_"
            positions = np.array([position[prefix + name] for name in index.names], np.int64)
            identities.append(positions[index.identities])
            places.append(pc.binary_join_element_wise(self.names[number], index.places, " "))
            assert index.offsets is not None
            offsets.append(index.offsets + self._begins[number])
            skipped += [replace(entry, place=f"{self.names[number]} {entry.place}") for entry in index.skipped]
        order = np.argsort(np.concatenate(identities), kind="stable")
        return SourceIndex(
            names=names,
            identities=np.concatenate(identities)[order],
            places=pa.concat_arrays(places).take(pa.array(order)),
            offsets=np.concatenate(offsets)[order],
            skipped=skipped,
        )


def find_recs(paths: Sequence[str]) -> list[Path]:
    """The `.rec` files that paths, folders and patterns name.

    Raises:
        SourceError: see `RecordIOSource`.
    """
    found: list[Path] = []
    for path in paths:
        if not Path(path).exists() and glob.has_magic(path):
            matches = [Path(match) for match in sorted(glob.glob(path, recursive=True))]
            if not matches:
                raise SourceError(f"{path}: no file fits this pattern")
            found += map(_rec_of, matches)
        else:
            found.append(_rec_of(Path(path)))
    if not found:
        raise SourceError("no .rec file is given")
    resolved = [rec.resolve() for rec in found]
    for rec in found:
        if resolved.count(rec.resolve()) > 1:
            raise SourceError(f"{rec} is given twice; name each .rec file once")
    return found


def _rec_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    recs = sorted(p for p in path.iterdir() if p.suffix.lower() == ".rec" and not is_hidden(p.name))
    if len(recs) != 1:
        raise SourceError(f"{path}: {len(recs)} .rec files here; give the path of one, or a list")
    return recs[0]


class RecordIOSet:
    """One `.rec` file: its image records by label, and each one's bytes. See `RecordIOSource`."""

    def __init__(self, rec: Path, idx: str = "", use_index: bool = True) -> None:
        self.file = RecordFile(rec)
        if kind := self.file.kind():
            raise SourceError(f"{rec}: not a RecordIO file, it is {kind}")
        self.idx = Path(idx) if idx else rec.with_suffix(".idx")
        if not idx and not self.idx.is_file():
            self.idx = rec.with_suffix(".IDX")
        if idx and not self.idx.is_file():
            raise FileNotFoundError(f"{idx}: no such index; leave idx out to stream through {rec.name} without one")
        self.use_index = use_index and self.idx.is_file()

    def index(self) -> SourceIndex:
        """List the image records by label, in the order of record numbers.

        Raises:
            RecordIOError: an index that is none.
            SourceError: no image record at all.
        """
        skipped: list[Skipped] = []
        labels, places, offsets = self._indexed(skipped) if self.use_index else self._streamed(skipped)
        known = labels != NO_LABEL
        if not known.any():
            first = f": {skipped[0]}" if skipped else ""
            raise SourceError(
                f"{self.file.path}: no readable image record, {len(skipped):,} damaged{first}. If the index belongs to "
                "another file, set the option use_index to false."
            )
        # Stable: record order within an identity.
        order = np.flatnonzero(known)[np.argsort(labels[known], kind="stable")]
        values, identities = np.unique(labels[order], return_inverse=True)
        return SourceIndex(
            names=[str(value) for value in values.tolist()],
            identities=identities.astype(np.int64),
            places=places.take(pa.array(order)),
            offsets=offsets[order],
            skipped=skipped,
        )

    def read(self, entry: Entry) -> bytes:
        """The encoded image of a record."""
        try:
            labels, image = self.file.record(entry.offset, entry.place)
        except RecordIOError as error:
            raise UnreadableImageError("damaged_record", str(error)) from None
        if not image:
            raise UnreadableImageError("damaged_record", f"{self.file.path}: no image at byte {entry.offset:,}")
        label = _whole(float(labels[0])) if len(labels) else NO_LABEL
        if str(label) != entry.name:
            detail = f"{self.file.path}: its label is {labels[:1].tolist()}, listed under identity {entry.name}"
            raise UnreadableImageError("wrong_label", detail)
        return image

    def identity_records(self, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the identity record that lists the image at each of `offsets`; NO_LABEL where none does."""
        keys = np.full(len(offsets), NO_LABEL)
        if not self.use_index:
            return keys
        reader = RecordIOReader(self.file.path, self.idx, skip_repeated=True)
        try:
            ranges = reader.identity_ranges
        except RecordIOError:
            return keys
        if ranges is None:
            return keys
        listed = reader.offsets(reader.image_keys)
        by_offset, by_begin = np.argsort(listed), np.argsort(ranges[:, 0], kind="stable")
        positions = by_offset[np.searchsorted(listed[by_offset], offsets).clip(max=len(listed) - 1)]
        of_range = by_begin[np.searchsorted(ranges[by_begin, 0], positions, "right") - 1]
        found = (listed[positions] == offsets) & (positions >= ranges[of_range, 0]) & (positions < ranges[of_range, 1])
        keys[found] = reader.identity_keys[of_range[found]]
        return keys

    def _indexed(self, skipped: list[Skipped]) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.int64]]:
        """Label (or NO_LABEL), place and offset of every image record in the index."""
        reader = RecordIOReader(self.file.path, self.idx, skip_repeated=True)
        skipped.extend(
            Skipped("listed_twice", f"record {key}", self.idx.name, True) for key in reader.repeated.tolist()
        )
        if reader.stale_header:
            skipped.append(Skipped("stale_header", "record 0", reader.stale_header, True))
        keys = reader.keys
        offsets = reader.offsets(keys)
        first_of_offset = np.zeros(len(keys), bool)
        first_of_offset[np.unique(offsets, return_index=True)[1]] = True
        for key, offset in zip(keys[~first_of_offset].tolist(), offsets[~first_of_offset].tolist(), strict=True):
            skipped.append(
                Skipped("listed_twice", f"record {key}", f"byte {offset:,} belongs to another record too", True)
            )
        keys, offsets = keys[first_of_offset], offsets[first_of_offset]
        self._check_unlisted(keys, offsets, skipped)
        images = np.isin(keys, reader.image_keys)
        labels = self._labels_by_range(reader, keys[images], offsets[images])
        if labels is None:
            # Looks at every record, so that the header and the identity records need not be right.
            labels = self._labels_by_record(keys, offsets, images, skipped)
        else:
            keys, offsets = keys[images], offsets[images]
        places = pc.binary_join_element_wise("record", pa.array(keys).cast(pa.string()), " ")
        return labels, places, offsets

    def _labels_by_range(
        self, reader: RecordIOReader, keys: NDArray[np.int64], offsets: NDArray[np.int64]
    ) -> NDArray[np.int64] | None:
        """Labels from the identity records; None without them, or when they are damaged or do not fit the images."""
        try:
            ranges = reader.identity_ranges
        except RecordIOError:
            return None
        if ranges is None or len(keys) != len(reader):
            return None
        covered = np.sort(ranges, axis=0)
        if len(keys) != covered[-1, 1] or covered[0, 0] != 0 or np.any(covered[1:, 0] != covered[:-1, 1]):
            return None
        labels = np.full(len(keys), NO_LABEL)
        for begin, end in ranges.tolist():
            for position in range(begin, end):
                try:
                    label = _whole(self.file.head(int(offsets[position]), f"record {keys[position]}").label)
                except RecordIOError:
                    continue  # It is found again, and counted, when its image is read.
                labels[begin:end] = label
                break
        return labels if np.all(labels != NO_LABEL) else None

    def _labels_by_record(
        self, keys: NDArray[np.int64], offsets: NDArray[np.int64], images: NDArray[np.bool_], skipped: list[Skipped]
    ) -> NDArray[np.int64]:
        """The label in the first bytes of every record, NO_LABEL for damaged ones and for identity records.

        Args:
            images: whether a record should hold an image, by the header; a damaged one that should not is not missed,
                unless others that should not do hold one.
        """
        labels = np.full(len(keys), NO_LABEL)
        elsewhere: list[Skipped] = []
        for i, (key, offset) in enumerate(zip(keys.tolist(), offsets.tolist(), strict=True)):
            try:
                label, count, has_image = self.file.head(offset, f"record {key}")
            except RecordIOError as error:
                place = skipped if images[i] else elsewhere
                place.append(Skipped("damaged_record", f"record {key}", str(error), True))
                continue
            if not has_image and count > 1:
                continue  # The header, or an identity record.
            if not has_image:
                skipped.append(Skipped("no_image", f"record {key}", f"byte {offset:,}", True))
            elif (whole := _whole(label)) == NO_LABEL:
                skipped.append(Skipped("damaged_record", f"record {key}", f"its label is {label}, no identity", True))
            else:
                labels[i] = whole
        if np.any(labels[~images] != NO_LABEL):
            skipped.extend(elsewhere)
        return labels

    def _streamed(self, skipped: list[Skipped]) -> tuple[NDArray[np.int64], pa.Array, NDArray[np.int64]]:
        """The same for every image record found in the file itself."""
        labels, offsets = [], []
        for record in self.file.scan():
            label = _whole(float(record.labels[0])) if len(record.labels) else NO_LABEL
            if record.damage:
                skipped.append(Skipped("damaged_record", f"byte {record.offset}", record.damage, True))
            elif record.image and label == NO_LABEL:
                skipped.append(Skipped("damaged_record", f"byte {record.offset}", "its label is no identity", True))
            elif record.image:
                labels.append(label)
                offsets.append(record.offset)
            elif len(record.labels) < 2:
                skipped.append(Skipped("no_image", f"byte {record.offset}", "", True))
        places = pc.binary_join_element_wise("byte", pa.array(offsets, pa.int64()).cast(pa.string()), " ")
        return np.array(labels, np.int64), places, np.array(offsets, np.int64)

    def _check_unlisted(self, keys: NDArray[np.int64], offsets: NDArray[np.int64], skipped: list[Skipped]) -> None:
        """Count images that the index does not list: after its last record, and where it passes over numbers."""
        order = np.argsort(offsets)
        starts = np.r_[offsets[order], self.file.size]
        gaps = np.flatnonzero(np.r_[np.diff(keys[order]) != 1, True])
        for begin, end in zip(starts[gaps].tolist(), starts[gaps + 1].tolist(), strict=True):
            try:
                begin = self.file.end(begin)
            except RecordIOError:
                begin = self.file.next_start(begin + 4)  # It is damaged itself, and counted.
            count = self.file.count_images(begin, end) if begin < end else 0
            if count:
                detail = f"{count:,} images in {end - begin:,} bytes that {self.idx.name} does not list"
                skipped.append(Skipped("not_in_index", f"byte {begin}", detail, True, count))


def _whole(label: float) -> int:
    """A label as an identity number; NO_LABEL unless it is a whole number."""
    return int(label) if label == label and abs(label) < 2**62 and label == int(label) else NO_LABEL
