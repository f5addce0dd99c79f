"""MXNet RecordIO face sets (`train.rec` and `train.idx`: MS1MV2, Glint360K and others), read without MXNet.

A record is uint32 magic, uint32 (part << 29 | length), payload, zero padding to 4 bytes. Part 0 is a whole record; 1, 2
and 3 are the first, a middle and the last part of one that held the magic at a word boundary: the magic joins the
parts. The payload is a header `<IfQQ` (flag, label, id, id2), then `flag` float32 labels if flag > 0, then the
encoded image. An index line is `key<TAB>offset`. In the insightface layout record 0 holds no image: its labels are
(first identity record, one past the last), and an identity record's labels are (first image record, one past the
last).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = struct.pack("<I", 0xCED7230A)
PART_HEADER = struct.Struct("<4sI")
IMAGE_HEADER = struct.Struct("<IfQQ")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
# One read of this size holds an aligned face and its header.
READ_AHEAD = 16_384
# Record numbers are stored as float32, which counts no further than this.
EXACT_FLOAT32 = 2**24


class RecordIOError(ValueError):
    """A RecordIO file that is truncated, damaged, or does not fit its index."""


class RecordIOReader:
    """Random access to the images of a RecordIO face set.

    `len(reader)` is the number of images; `reader[i]` is (encoded image bytes, identity), in the order of record
    numbers. May be shared by threads, forked, and pickled (the copy opens the file again).

    Args:
        rec: the `.rec` file.
        idx: the `.idx` file; left out, the file of the same name next to `rec`.

    Raises:
        FileNotFoundError: a file is missing.
        RecordIOError: a damaged index or header record. Damaged records raise it when they are read, naming the record.
    """

    def __init__(self, rec: str | os.PathLike[str], idx: str | os.PathLike[str] | None = None) -> None:
        self.rec = Path(rec)
        self.idx = Path(idx) if idx is not None else self.rec.with_suffix(".idx")
        self._file: int | None = None
        for path in (self.rec, self.idx):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; a RecordIO set is a .rec file and its .idx file")
        self._keys, self._offsets = _read_index(self.idx)
        self._identity_keys = self._keys[:0]
        self._image_keys = self._keys
        if len(self._keys) and self._keys[0] == 0:
            self._read_layout()

    def __len__(self) -> int:
        return len(self._image_keys)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        key = int(self._image_keys[range(len(self))[index]])
        labels, image = self.record(key)
        if not image or not len(labels):
            raise RecordIOError(f"{self.rec}: record {key} holds no image or no label, but stands among the images")
        return image, int(labels[0])

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def identity_ranges(self) -> NDArray[np.int64] | None:
        """Positions [identities, 2] of each identity's first image and one past its last; None without identity
        records.

        Reads every identity record.

        Raises:
            RecordIOError: a damaged identity record, or more images than float32 record numbers can count (2^24).
        """
        if not len(self._identity_keys):
            return None
        if self._image_keys[-1] >= EXACT_FLOAT32:
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
        return np.searchsorted(self._image_keys, np.array(ranges, dtype=np.int64))

    def record(self, key: int) -> tuple[NDArray[np.float32], bytes]:
        """Labels [n] and image bytes (empty in header and identity records) of record number `key`.

        Raises:
            KeyError: no such number in the index.
            RecordIOError: the record is damaged.
        """
        position = int(np.searchsorted(self._keys, key))
        if position == len(self._keys) or self._keys[position] != key:
            raise KeyError(f"{self.idx}: no record {key}")
        payload = self._payload(key, int(self._offsets[position]))
        if len(payload) < IMAGE_HEADER.size:
            raise RecordIOError(f"{self.rec}: record {key} has {len(payload)} bytes, too few for its header")
        flag, label, _, _ = IMAGE_HEADER.unpack_from(payload)
        if flag == 0:
            return np.array([label], dtype=np.float32), payload[IMAGE_HEADER.size :]
        end = IMAGE_HEADER.size + 4 * flag
        if end > len(payload):
            raise RecordIOError(f"{self.rec}: record {key} announces {flag} labels in {len(payload)} bytes")
        return np.frombuffer(payload[IMAGE_HEADER.size : end], dtype="<f4"), payload[end:]

    def close(self) -> None:
        """Close the file; reading again opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def _read_layout(self) -> None:
        """Tell images from identity records by record 0."""
        labels, image = self.record(0)
        if image:
            return
        keys = self._keys
        if len(labels) < 2 or not 0 < labels[0] <= labels[1] <= keys[-1] + 2:
            raise RecordIOError(
                f"{self.rec}: record 0 gives the range of identity records as {labels.tolist()}, "
                f"but the last record of {self.idx.name} is {keys[-1]}"
            )
        first = int(labels[0])
        # float32 rounds numbers above 2^24: look at the neighbours for the first record without an image.
        if first > EXACT_FLOAT32:
            neighbours = [key for key in range(first - 2, first + 3) if keys[0] <= key <= keys[-1]]
            first = next((key for key in neighbours if not self.record(key)[1]), first)
        self._image_keys = keys[(keys > 0) & (keys < first)]
        self._identity_keys = keys[keys >= first]

    def _payload(self, key: int, offset: int) -> bytes:
        """Payload of the record that starts at `offset`, its parts joined."""
        parts: list[bytes] = []
        while True:
            kind, part, offset = self._part(key, offset)
            expected = (WHOLE, FIRST) if not parts else (MIDDLE, LAST)
            if kind not in expected:
                raise RecordIOError(f"{self.rec}: record {key} has part {kind} where {expected} may follow")
            parts.append(part)
            if kind in (WHOLE, LAST):
                return MAGIC.join(parts)

    def _part(self, key: int, offset: int) -> tuple[int, bytes, int]:
        """Kind and bytes of the part at `offset`, and where the next one starts."""
        if self._file is None:
            self._file = os.open(self.rec, os.O_RDONLY)
        # pread leaves no file position that threads or forked processes could disturb.
        data = os.pread(self._file, READ_AHEAD, offset) if offset >= 0 else b""
        if len(data) < PART_HEADER.size:
            raise RecordIOError(
                f"{self.rec}: record {key} at byte {offset:,} lies past the end: truncated, or not its index"
            )
        magic, packed = PART_HEADER.unpack_from(data)
        if magic != MAGIC:
            raise RecordIOError(
                f"{self.rec}: record {key} at byte {offset:,} starts with {magic.hex()}, not the RecordIO magic "
                f"{MAGIC.hex()}: damaged, or {self.idx.name} belongs to another file"
            )
        kind, length = packed >> LENGTH_BITS, packed & ((1 << LENGTH_BITS) - 1)
        end = PART_HEADER.size + length
        if end > len(data) and end <= os.fstat(self._file).st_size - offset:
            data += os.pread(self._file, end - len(data), offset + len(data))
        if end > len(data):
            raise RecordIOError(f"{self.rec}: record {key} at byte {offset:,} is truncated: {length:,} bytes announced")
        return kind, data[PART_HEADER.size : end], offset + PART_HEADER.size + -(-length // 4) * 4


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
            records.write(_encode(payload))

        # Record 0 has a fixed size: its place is kept and filled when the numbers are known.
        header_size = len(_encode(_label_record(0, 0, 0)))
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


def _encode(payload: bytes) -> bytes:
    """Frame a payload as record parts: it is cut wherever the magic stands at a word boundary."""
    cuts = []
    position = payload.find(MAGIC)
    while position >= 0:
        if position % 4 == 0:
            cuts.append(position)
        position = payload.find(MAGIC, position + 4 - position % 4)
    starts = [0, *(cut + 4 for cut in cuts)]
    framed = b""
    for number, (start, end) in enumerate(zip(starts, [*cuts, len(payload)], strict=True)):
        kind = WHOLE if not cuts else FIRST if number == 0 else LAST if number == len(cuts) else MIDDLE
        part = payload[start:end]
        framed += PART_HEADER.pack(MAGIC, kind << LENGTH_BITS | len(part)) + part + b"\0" * (-len(part) % 4)
    return framed


def _read_index(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Record numbers, ascending, and their offsets."""
    import pyarrow as pa
    from pyarrow import csv

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
    twice = np.flatnonzero(np.diff(keys) == 0)
    if len(twice):
        raise RecordIOError(f"{path}: record {keys[twice[0]]} is listed more than once")
    return keys, offsets
