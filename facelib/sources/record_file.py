"""One RecordIO file (`train.rec`) by byte positions: records at random, or streamed from any byte without an index.

A record is uint32 magic, uint32 (part << 29 | length), payload, zero padding to 4 bytes. Part 0 is a whole record; 1, 2
and 3 are the first, a middle and the last part of one that held the magic at a word boundary: the magic joins the
parts, so that no payload ever holds it there and a reader finds the next record from anywhere in the file. The payload
is a header `<IfQQ` (flag, label, id, id2), then `flag` float32 labels if flag > 0, then the encoded image.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from facelib.utils.file_kinds import HEAD_BYTES, describe_content

MAGIC_NUMBER = 0xCED7230A
MAGIC = struct.pack("<I", MAGIC_NUMBER)
PART_HEADER = struct.Struct("<4sI")
IMAGE_HEADER = struct.Struct("<IfQQ")
LENGTH_BITS = 29
WHOLE, FIRST, MIDDLE, LAST = range(4)
# One read of this size holds an aligned face and its header.
READ_AHEAD = 16_384
SEARCH_BYTES = 1 << 20


class RecordIOError(ValueError):
    """A RecordIO file that is truncated, damaged, or does not fit its index."""


@dataclass(frozen=True)
class Record:
    """What stands at byte `offset`: labels [n] and image bytes (empty in header and identity records), or damage."""

    offset: int
    labels: NDArray[np.float32]
    image: bytes
    damage: str = ""


class RecordHead(NamedTuple):
    """What the first bytes of a record say: first label (NaN without), number of labels, whether an image follows."""

    label: float
    labels: int
    has_image: bool


class RecordFile:
    """A `.rec` file. May be shared by threads, forked, and pickled (the copy opens the file again).

    Raises:
        FileNotFoundError: no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._file: int | None = None
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file; a RecordIO set is a .rec file and its .idx file")

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self.path.stat().st_size

    def kind(self) -> str:
        """What else the file is, by its first bytes; "" if it may be RecordIO."""
        return describe_content(self._read(0, HEAD_BYTES))

    def record(self, offset: int, name: str = "") -> tuple[NDArray[np.float32], bytes]:
        """Labels [n] and image bytes of the record that starts at byte `offset`; `name` is what messages call it.

        Raises:
            RecordIOError: there is no whole record.
        """
        return self._record(offset, name or "the record")[:2]

    def head(self, offset: int, name: str = "") -> RecordHead:
        """The head of the record at `offset`; reads its first bytes only.

        Raises:
            RecordIOError: there is no record, or it runs over the end of the file.
        """
        name = name or "the record"
        needed = PART_HEADER.size + IMAGE_HEADER.size + 4
        data = self._read(offset, needed)
        kind, length = self._part_header(data, offset, name)
        if kind != WHOLE or len(data) < needed:
            # Its header may be cut in parts, or it is damaged: the whole record tells.
            labels, image = self.record(offset, name)
            return RecordHead(float(labels[0]) if len(labels) else float("nan"), len(labels), bool(image))
        if offset + PART_HEADER.size + length > self.size:
            raise RecordIOError(f"{self.path}: {name} at byte {offset:,} is truncated: {length:,} bytes announced")
        flag, label, _, _ = IMAGE_HEADER.unpack_from(data, PART_HEADER.size)
        if length < IMAGE_HEADER.size + 4 * flag:
            raise RecordIOError(f"{self.path}: {name} at byte {offset:,} announces {flag} labels in {length} bytes")
        if flag:
            label = struct.unpack_from("<f", data, needed - 4)[0]
        return RecordHead(float(label), max(flag, 1), length > IMAGE_HEADER.size + 4 * flag)

    def count_images(self, begin: int, end: int) -> int:
        """Records between two bytes that hold an image, should hold one, or are damaged; reads their first bytes only.

        Args:
            begin: where a record ends, or starts.
        """
        offset, count = begin, 0
        while offset < min(end, self.size):
            try:
                head, offset = self.head(offset), self.end(offset)
                count += head.has_image or head.labels < 2
            except RecordIOError:
                count += 1
                offset = self.next_start(offset + 4)
        return count

    def end(self, offset: int) -> int:
        """Where the record that starts at byte `offset` ends; RecordIOError when there is none."""
        kind, length = self._part_header(self._read(offset, PART_HEADER.size), offset, "the record")
        after = offset + PART_HEADER.size + -(-length // 4) * 4
        return after if kind == WHOLE and after <= self.size else self._record(offset, "the record")[2]

    def scan(self, begin: int = 0, end: int | None = None) -> Iterator[Record]:
        """Every record that starts at bytes `begin` … `end − 1`, without an index.

        Ranges that cover the file together give every record once. Damage is a record with `damage` set; it too is
        given once, whatever the ranges, and the stream goes on at the next record after it.
        """
        size = self.size
        end = size if end is None else min(end, size)
        offset = self.next_start(begin) if begin else 0
        while offset < end:
            try:
                labels, image, after = self._record(offset, "the record")
            except RecordIOError as error:
                yield Record(offset, np.zeros(0, np.float32), b"", str(error))
                offset = self.next_start(offset + 4)
                continue
            yield Record(offset, labels, image)
            offset = after
            if end <= after < size and not self._starts(after):
                # The next range begins with its first record, and would pass over this.
                yield Record(after, np.zeros(0, np.float32), b"", f"{self.path}: no record starts at byte {after:,}")

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

    def _read(self, offset: int, count: int) -> bytes:
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        # pread leaves no file position that threads or forked processes could disturb.
        return os.pread(self._file, count, offset) if offset >= 0 else b""

    def _record(self, offset: int, name: str) -> tuple[NDArray[np.float32], bytes, int]:
        """Labels and image of a record, its parts joined, and where the next one starts."""
        parts: list[bytes] = []
        position = offset
        while True:
            kind, part, position = self._part(position, name)
            expected = (WHOLE, FIRST) if not parts else (MIDDLE, LAST)
            if kind not in expected:
                raise RecordIOError(
                    f"{self.path}: {name} at byte {offset:,} has part {kind} where {expected} may follow"
                )
            parts.append(part)
            if kind in (WHOLE, LAST):
                break
        try:
            labels, image = parse_payload(MAGIC.join(parts))
        except ValueError as error:
            raise RecordIOError(f"{self.path}: {name} at byte {offset:,} {error}") from None
        return labels, image, position

    def _part(self, offset: int, name: str) -> tuple[int, bytes, int]:
        """Kind and bytes of the part at `offset`, and where the next one starts."""
        data = self._read(offset, READ_AHEAD)
        kind, length = self._part_header(data, offset, name)
        end = PART_HEADER.size + length
        if end > len(data) and end <= self.size - offset:
            data += self._read(offset + len(data), end - len(data))
        if end > len(data):
            raise RecordIOError(f"{self.path}: {name} at byte {offset:,} is truncated: {length:,} bytes announced")
        return kind, data[PART_HEADER.size : end], offset + PART_HEADER.size + -(-length // 4) * 4

    def _part_header(self, data: bytes, offset: int, name: str) -> tuple[int, int]:
        """Kind and length of the part that `data`, read at `offset`, starts with."""
        if len(data) < PART_HEADER.size:
            raise RecordIOError(
                f"{self.path}: {name} at byte {offset:,} lies past the end: truncated, or not its index"
            )
        magic, packed = PART_HEADER.unpack_from(data)
        if magic != MAGIC:
            raise RecordIOError(
                f"{self.path}: {name} at byte {offset:,} starts with {magic.hex()}, not the RecordIO magic "
                f"{MAGIC.hex()}: damaged, or the index belongs to another file"
            )
        return packed >> LENGTH_BITS, packed & ((1 << LENGTH_BITS) - 1)

    def next_start(self, begin: int) -> int:
        """Where the first record at or after byte `begin` starts; the file's size when there is none."""
        size = self.size
        position = -(-begin // 4) * 4
        while position < size:
            data = self._read(position, SEARCH_BYTES)
            words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
            for word in np.flatnonzero(words[:-1] == MAGIC_NUMBER).tolist():
                if words[word + 1] >> LENGTH_BITS in (WHOLE, FIRST):
                    return position + 4 * word
            if len(data) < SEARCH_BYTES:
                break
            # The last word is looked at again: its header's second half comes with the next piece.
            position += SEARCH_BYTES - 4
        return size

    def _starts(self, offset: int) -> bool:
        """Whether a record starts at byte `offset`."""
        data = self._read(offset, PART_HEADER.size)
        if len(data) < PART_HEADER.size:
            return False
        magic, packed = PART_HEADER.unpack(data)
        return bool(magic == MAGIC) and packed >> LENGTH_BITS in (WHOLE, FIRST)


def parse_payload(payload: bytes) -> tuple[NDArray[np.float32], bytes]:
    """Labels [n] and image bytes (empty in header and identity records) of a record's payload.

    Raises:
        ValueError: it is too short for its header or its labels.
    """
    if len(payload) < IMAGE_HEADER.size:
        raise ValueError(f"has {len(payload)} bytes, too few for its header")
    flag, label, _, _ = IMAGE_HEADER.unpack_from(payload)
    if flag == 0:
        return np.array([label], dtype=np.float32), payload[IMAGE_HEADER.size :]
    end = IMAGE_HEADER.size + 4 * flag
    if end > len(payload):
        raise ValueError(f"announces {flag} labels in {len(payload)} bytes")
    return np.frombuffer(payload[IMAGE_HEADER.size : end], dtype="<f4"), payload[end:]


def frame_record(payload: bytes) -> bytes:
    """A payload as record parts: it is cut wherever the magic stands at a word boundary."""
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
