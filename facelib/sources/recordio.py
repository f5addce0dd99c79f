"""MXNet RecordIO face sets (`train.rec` and `train.idx`: MS1MV2, Glint360K and others), read without MXNet.

How records are stored, `facelib.sources.record_file` says. An index line is `key<TAB>offset`. In the insightface layout
record 0 holds no image: its labels are (first identity record, one past the last), and an identity record's labels are
(first image record, one past the last). Sets are in circulation whose header is stale, because images were appended and
it was not: there, and where it is damaged, each record is looked at for what it is.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facelib.sources.record_file import IMAGE_HEADER, RecordFile, RecordIOError, frame_record
from facelib.utils.text_files import check_encoding

# Record numbers are stored as float32, which counts no further than this.
EXACT_FLOAT32 = 2**24


class RecordIOReader:
    """Random access to the images of a RecordIO face set.

    `len(reader)` is the number of images; `reader[i]` is (encoded image bytes, identity), in the order of record
    numbers. May be shared by threads, forked, and pickled (the copy opens the file again).

    Args:
        rec: the `.rec` file.
        idx: the `.idx` file; left out, the file of the same name next to `rec`.
        skip_repeated: take the first of several lines for one record, and keep the record's number in `repeated`.

    Attributes:
        file: the records by byte position.
        image_keys: numbers of the image records, ascending, int64.
        repeated: record numbers that the index lists again.
        stale_header: why record 0 does not say what is where; "" where it does, or the set has none.

    Raises:
        FileNotFoundError: a file is missing.
        RecordIOError: a damaged index. Damaged records raise it when they are read, naming the record.
    """

    def __init__(
        self,
        rec: str | os.PathLike[str],
        idx: str | os.PathLike[str] | None = None,
        skip_repeated: bool = False,
    ) -> None:
        self.rec = Path(rec)
        self.idx = Path(idx) if idx is not None else self.rec.with_suffix(".idx")
        self.file = RecordFile(self.rec)
        if not self.idx.is_file():
            raise FileNotFoundError(f"{self.idx}: no such file; a RecordIO set is a .rec file and its .idx file")
        self._keys, self._offsets, self.repeated = _read_index(self.idx)
        if len(self.repeated) and not skip_repeated:
            raise RecordIOError(f"{self.idx}: record {self.repeated[0]} is listed more than once")
        self._identity_keys = self._keys[:0]
        self.image_keys: NDArray[np.int64] = self._keys
        self.stale_header = ""
        if len(self._keys) and self._keys[0] == 0:
            self._read_layout()

    def __len__(self) -> int:
        return len(self.image_keys)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        key = int(self.image_keys[range(len(self))[index]])
        labels, image = self.record(key)
        if not image or not len(labels):
            raise RecordIOError(f"{self.rec}: record {key} holds no image or no label, but stands among the images")
        return image, int(labels[0])

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def identity_ranges(self) -> NDArray[np.int64] | None:
        """Positions [identities, 2] of each identity's first image and one past its last; None without identity
        records, or with a stale header.

        Reads every identity record.

        Raises:
            RecordIOError: a damaged identity record, or more images than float32 record numbers can count (2^24).
        """
        if not len(self._identity_keys) or self.stale_header:
            return None
        if len(self.image_keys) and self.image_keys[-1] >= EXACT_FLOAT32:
            raise RecordIOError(
                f"{self.rec}: {len(self):,} images, but identity records count exactly to {EXACT_FLOAT32:,} only; "
                "group by the identity of each image"
            )
        ranges = []
        for key in self._identity_keys:
            labels, _ = self.record(int(key))
            if len(labels) < 2 or not 0 < labels[0] <= labels[1]:
                raise RecordIOError(f"{self.rec}: identity record {key} holds no image range: {labels.tolist()}")
            ranges.append((int(labels[0]), int(labels[1])))
        return np.searchsorted(self.image_keys, np.array(ranges, dtype=np.int64))

    def record(self, key: int) -> tuple[NDArray[np.float32], bytes]:
        """Labels [n] and image bytes (empty in header and identity records) of record number `key`.

        Raises:
            KeyError: no such number in the index.
            RecordIOError: the record is damaged.
        """
        position = int(np.searchsorted(self._keys, key))
        if position == len(self._keys) or self._keys[position] != key:
            raise KeyError(f"{self.idx}: no record {key}")
        return self.file.record(int(self._offsets[position]), f"record {key}")

    def offsets(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes at which the records `keys`, all of them in the index, start."""
        return self._offsets[np.searchsorted(self._keys, keys)]

    @property
    def keys(self) -> NDArray[np.int64]:
        """Numbers of all records in the index, ascending, int64."""
        return self._keys

    @property
    def identity_keys(self) -> NDArray[np.int64]:
        """Numbers of the identity records, ascending, int64; empty without."""
        return self._identity_keys

    def close(self) -> None:
        """Close the file; reading again opens it again."""
        self.file.close()

    def _read_layout(self) -> None:
        """Tell images from identity records by record 0, or where that does not fit, by what each record holds."""
        try:
            labels, image = self.record(0)
        except RecordIOError as error:
            self._look_at_all(str(error))
            return
        if image:
            return
        keys = self._keys[1:]
        if len(labels) < 2 or not 0 < labels[0] <= labels[1]:
            self._look_at_all(f"it gives the range of identity records as {labels.tolist()}")
            return
        first, end = int(labels[0]), int(labels[1])
        # float32 rounds numbers above 2^24: the first identity record is near, the first without an image.
        rounding = int(np.spacing(np.float32(end))) if end > EXACT_FLOAT32 else 0
        near = keys[(keys >= first - rounding) & (keys <= first + rounding)].tolist()
        first = next((key for key in near if self._holds_image(key) is False), first) if rounding else first
        images, identities = keys[keys < first], keys[keys >= first]
        said = f"it gives the range of identity records as {labels.tolist()}, but"
        if len(keys) and keys[-1] >= end + rounding:
            self._look_at_all(f"{said} the last record of {self.idx.name} is {keys[-1]}")
        elif len(identities) and self._holds_image(int(identities[0])):
            self._look_at_all(f"{said} record {identities[0]} holds an image")
        elif len(images) and self._holds_image(int(images[-1])) is False:
            self._look_at_all(f"{said} record {images[-1]} holds no image")
        else:
            self.image_keys, self._identity_keys = images, identities

    def _look_at_all(self, stale_header: str) -> None:
        self.stale_header = f"record 0 of {self.rec} is stale or damaged: {stale_header}"
        # A damaged record counts as an image, and raises when it is read.
        holds = np.array([self._holds_image(key) is not False for key in self._keys.tolist()], bool)
        self.image_keys, self._identity_keys = self._keys[holds], self._keys[~holds]

    def _holds_image(self, key: int) -> bool | None:
        """Whether a record of the index holds an image; None where it is damaged."""
        try:
            return self.file.head(int(self._offsets[np.searchsorted(self._keys, key)])).has_image
        except RecordIOError:
            return None


def write_recordio(
    rec: str | os.PathLike[str], idx: str | os.PathLike[str], identities: Iterable[tuple[int, Sequence[bytes]]]
) -> None:
    """Write a face set in the insightface layout (header record, images, identity records).

    Args:
        rec, idx: files to write.
        identities: (identity, encoded images) per identity.
    """
    ranges: list[tuple[int, int]] = []
    with open(rec, "wb") as records, open(idx, "w", encoding="ascii") as index:

        def write(key: int, payload: bytes) -> None:
            index.write(f"{key}\t{records.tell()}\n")
            records.write(frame_record(payload))

        # Record 0 has a fixed size: its place is kept and filled when the numbers are known.
        header_size = len(frame_record(_label_record(0, 0, 0)))
        records.write(b"\0" * header_size)
        key = 1
        for identity, images in identities:
            first = key
            for image in images:
                write(key, IMAGE_HEADER.pack(0, float(identity), key, 0) + image)
                key += 1
            ranges.append((first, key))
        for number, (first, end) in enumerate(ranges):
            write(key + number, _label_record(key + number, first, end))
        records.seek(0)
        write(0, _label_record(0, key, key + len(ranges)))


def _label_record(key: int, first: int, end: int) -> bytes:
    return IMAGE_HEADER.pack(2, 0.0, key, 0) + struct.pack("<2f", first, end)


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Record numbers, ascending, their offsets, and the numbers that are listed again."""
    import pyarrow as pa
    from pyarrow import csv

    check_encoding(path)
    try:
        table = csv.read_csv(
            path,
            read_options=csv.ReadOptions(column_names=["key", "offset"]),
            parse_options=csv.ParseOptions(delimiter="\t"),
            convert_options=csv.ConvertOptions(column_types={"key": pa.int64(), "offset": pa.int64()}),
        )
    except pa.ArrowInvalid as error:
        raise RecordIOError(f"{path}: not a RecordIO index (lines of key<TAB>offset): {error}") from None
    if table["key"].null_count or table["offset"].null_count:
        raise RecordIOError(f"{path}: a line of the index is incomplete; copy the file again")
    keys, offsets = table["key"].to_numpy(), table["offset"].to_numpy()
    order = np.argsort(keys, kind="stable")
    keys, offsets = keys[order], offsets[order]
    first = np.r_[True, np.diff(keys) != 0]
    return keys[first], offsets[first], keys[~first]
