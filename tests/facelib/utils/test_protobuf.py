"""Messages by field number, against the bytes of the format's definition."""

import pytest

from facelib.utils.protobuf import message_bytes, message_integer, message_parts, read_message


def test_smallest_example():
    """The definition's own example, 150 in field 1, then a text, a fixed number and a repeated field."""
    content = b"\x08\x96\x01" + b"\x12\x07testing" + b"\x1d\x01\x02\x00\x00" + b"\x22\x01a" + b"\x22\x01b"
    record = read_message(content)
    assert record == [(1, 150), (2, b"testing"), (3, 513), (4, b"a"), (4, b"b")]
    assert message_integer(record, 1) == 150
    assert message_integer(record, 9, default=7) == 7
    assert message_parts(record, 4) == [b"a", b"b"]
    assert message_bytes(record, 4) == b"ab"
    assert message_bytes(record, 1) == b""


@pytest.mark.parametrize("content", [b"\x08", b"\x12\x07test", b"\x0b", b"\x08" + b"\xff" * 11, b"\x1d\x01"])
def test_damaged_messages(content):
    with pytest.raises((ValueError, IndexError)):
        read_message(content)
