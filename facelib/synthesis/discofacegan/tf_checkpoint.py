"""Reader of TensorFlow's checkpoints (format V2, "tensor bundle"), without TensorFlow.

`<prefix>.index` is a table in LevelDB's format: variable name -> a record with type, shape, and where its bytes are in
`<prefix>.data-<shard>-of-<shards>`. Only uncompressed tables are read, as TensorFlow writes them. Every checksum
(CRC-32C) is compared, so a damaged or truncated file is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from facelib.utils.protobuf import ByteReader, message_bytes, message_integer, message_parts, read_message

_MAGIC = 0xDB4775248B80FB57
_FOOTER, _TRAILER = 48, 5
_FLOAT32 = 1  # DataType of TensorFlow
_MAX_INDEX_BYTES = 64 << 20


class Variable(NamedTuple):
    """Where a variable's bytes are."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    checksum: int


class Checkpoint:
    """A checkpoint's variables; values are read when asked for.

    Args:
        prefix: path without `.index` and `.data-…`.

    Raises:
        OSError: the index cannot be read.
        ValueError: the index is damaged or in another format.
    """

    def __init__(self, prefix: str | Path) -> None:
        self._prefix = str(prefix)
        path = Path(self._prefix + ".index")
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes: not the index of a checkpoint")
        content = path.read_bytes()
        try:
            self._shards, self.variables = _read_index(content)
        except (IndexError, struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"{path.name} is damaged ({error})") from error

    def read(self, name: str) -> npt.NDArray[np.float32]:
        """The values of a float32 variable.

        Raises:
            KeyError: no such variable.
            OSError: its file cannot be read.
            ValueError: not float32, or damaged.
        """
        variable = self.variables[name]
        path = Path(f"{self._prefix}.data-{variable.shard:05d}-of-{self._shards:05d}")
        if variable.dtype != _FLOAT32 or variable.size != 4 * int(np.prod(variable.shape)):
            raise ValueError(f"{name} is not a float32 variable of {variable.size} bytes")
        with path.open("rb") as file:
            file.seek(variable.offset)
            content = file.read(variable.size)
        if len(content) != variable.size or _masked_crc(content) != variable.checksum:
            raise ValueError(f"{path.name} is damaged or truncated at {name}")
        return np.frombuffer(content, "<f4").reshape(variable.shape).astype(np.float32)


def _read_index(content: bytes) -> tuple[int, dict[str, Variable]]:
    """Number of data files, and the variables by name."""
    if len(content) < _FOOTER or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise ValueError("not the index of a checkpoint (its last bytes are not those of a table)")
    fields = ByteReader(content[-_FOOTER:])
    fields.varint(), fields.varint()  # the block of meta data, not used
    index = _block(content, fields.varint(), fields.varint())
    shards, variables = 1, {}
    for _, handle in _entries(index):
        at = ByteReader(handle)
        for key, value in _entries(_block(content, at.varint(), at.varint())):
            record = read_message(value)
            if not key:
                shards = message_integer(record, 1, 1)
                if message_integer(record, 2):
                    raise ValueError("the checkpoint is big-endian")
                continue
            dimensions = [read_message(part) for part in message_parts(read_message(message_bytes(record, 2)), 2)]
            shape = tuple(message_integer(dimension, 1) for dimension in dimensions)
            numbers = (message_integer(record, field) for field in (3, 4, 5, 6))
            variables[key.decode()] = Variable(message_integer(record, 1), shape, *numbers)
    return shards, variables


def _block(content: bytes, offset: int, size: int) -> bytes:
    block, trailer = content[offset : offset + size], content[offset + size : offset + size + _TRAILER]
    if len(trailer) != _TRAILER or _masked_crc(block + trailer[:1]) != struct.unpack("<I", trailer[1:])[0]:
        raise ValueError(f"damaged at byte {offset:,}")
    if trailer[0]:
        raise ValueError("the table is compressed")
    return block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) pairs of a block; a key is stored as what differs from the one before."""
    restarts = struct.unpack("<I", block[-4:])[0]
    reader, key = ByteReader(block[: len(block) - 4 * (restarts + 1)]), b""
    while reader.position < len(reader.content):
        shared, rest, size = reader.varint(), reader.varint(), reader.varint()
        key = key[:shared] + reader.take(rest)
        yield key, reader.take(size)


def _crc_table() -> tuple[int, ...]:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1)
    return tuple(int(value) for value in table)


_CRC_TABLE = _crc_table()


def _masked_crc(content: bytes) -> int:
    """CRC-32C, rotated and shifted as the format stores it."""
    crc, table = 0xFFFFFFFF, _CRC_TABLE
    for byte in content:
        crc = table[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
