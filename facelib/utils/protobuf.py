"""Protocol buffers without their definitions: fields by number, for the few records read from others' files."""

from __future__ import annotations

Record = list[tuple[int, int | bytes]]


class ByteReader:
    """Reads numbers and bytes, front to back. ValueError or IndexError where the content ends too early."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    def varint(self) -> int:
        """A number of variable length, 7 bits a byte."""
        value = shift = 0
        while True:
            byte = self.content[self.position]
            self.position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        part = self.content[self.position : self.position + size]
        if len(part) != size:
            raise ValueError("truncated")
        self.position += size
        return part


def read_message(content: bytes) -> Record:
    """(field number, value) of a message: integers (also of fixed width, unsigned) or bytes (texts, messages, arrays).

    Raises:
        ValueError, IndexError: the content is not a message, or truncated.
    """
    reader = ByteReader(content)
    fields: Record = []
    while reader.position < len(content):
        tag = reader.varint()
        kind = tag & 7
        if kind == 0:
            fields.append((tag >> 3, reader.varint()))
        elif kind == 2:
            fields.append((tag >> 3, reader.take(reader.varint())))
        elif kind in (1, 5):
            fields.append((tag >> 3, int.from_bytes(reader.take(8 if kind == 1 else 4), "little")))
        else:
            raise ValueError(f"a field of unknown kind {kind}")
    return fields


def message_parts(record: Record, field: int) -> list[bytes]:
    """All values of a repeated field of texts, messages or arrays."""
    return [value for number, value in record if number == field and isinstance(value, bytes)]


def message_bytes(record: Record, field: int) -> bytes:
    """The value of a field of bytes, joined where it comes in pieces; empty if the field is absent."""
    return b"".join(message_parts(record, field))


def message_integer(record: Record, field: int, default: int = 0) -> int:
    """The value of a field of integers."""
    return next((value for number, value in record if number == field and isinstance(value, int)), default)
