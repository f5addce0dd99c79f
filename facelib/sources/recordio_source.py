"""MXNet RecordIO face sets as a source: with or without an index, with or without identity records.

Identities are the labels of the image records. Where the set has identity records, one image of each range is looked
at; otherwise the first bytes of every record are. A record whose label differs from what was listed is damage: the
index or the identity records belong to another file.

M image records.
"""

from __future__ import annotations

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
    """The image records of a `.rec` file. Its images are crops on the template already.

    Args:
        path: the `.rec` file, or a folder that holds one.
        idx: the `.idx` file; "" takes the one of the same name. Without any, the records are found by streaming
            through the file.
        use_index: false leaves the index aside; for an index that belongs to another file, or lists too little.

    Raises:
        FileNotFoundError: no such file.
        SourceError: a folder with several `.rec` files, or a file of another kind.
    """

    alignment = "none"

    def __init__(self, path: str, idx: str = "", use_index: bool = True) -> None:
        rec = Path(path)
        if rec.is_dir():
            found = sorted(p for p in rec.iterdir() if p.suffix.lower() == ".rec" and not is_hidden(p.name))
            if len(found) != 1:
                raise SourceError(f"{path}: {len(found)} .rec files here; give the path of one")
            rec = found[0]
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
