"""Text files that people wrote: lists, pairs, tables, settings, from any editor and operating system.

Text is UTF-8. A byte-order mark is taken off, also where files were joined and it begins a later line; lines end in LF,
CR LF or CR. Another encoding is refused with the file, the line and what to do: a name that is read wrong is lost
without a word.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator

from facelib.utils.file_kinds import describe_content

BYTE_ORDER_MARK = "\ufeff"
_HEAD_BYTES = 4096
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32 (little endian)",
    codecs.BOM_UTF32_BE: "UTF-32 (big endian)",
    codecs.BOM_UTF16_LE: "UTF-16 (little endian)",
    codecs.BOM_UTF16_BE: "UTF-16 (big endian)",
}  # UTF-32 first: its little-endian mark begins with that of UTF-16
_ESCAPED = re.compile("[\udc80-\udcff]")


class TextFileError(ValueError):
    """A file that is not UTF-8 text. The message names it, its encoding if that is known, and what to do."""


def read_lines(path: str | os.PathLike[str], escape: bool = False) -> Iterator[tuple[int, str]]:
    """Lines of a text file, numbered from 1, without their ends; blank lines are passed over.

    Args:
        path: the file.
        escape: carry bytes that are not UTF-8 along (`os.fsdecode`), as file names need; else they are refused.

    Raises:
        FileNotFoundError: no such file.
        TextFileError: another encoding, or no text.
    """
    check_encoding(path)
    with open(path, encoding="utf-8", errors="surrogateescape") as text:
        for number, line in enumerate(text, 1):
            line = line.rstrip("\n").removeprefix(BYTE_ORDER_MARK)
            if not line.isascii() and not escape and (found := _ESCAPED.search(line)):
                raise _not_utf8(path, number, ord(found.group()) - 0xDC00)
            if "\0" in line:
                raise TextFileError(f"{path}: line {number} holds NUL bytes: not a text file, or damaged")
            if line.strip():
                yield number, line


def check_encoding(path: str | os.PathLike[str]) -> None:
    """Refuse a file in UTF-16 or UTF-32, by its first bytes: for files that another library parses.

    Raises:
        TextFileError: names the file, its encoding and what to do.
    """
    with open(path, "rb") as file:
        _check_head(file.read(_HEAD_BYTES), path)


def read_text(path: str | os.PathLike[str]) -> str:
    """The whole text, with "\\n" for line ends, blank lines kept.

    Raises:
        As `read_lines`.
    """
    with open(path, "rb") as file:
        return decode_text(file.read(), path)


def decode_text(data: bytes, name: str | os.PathLike[str]) -> str:
    """The text of a file's bytes as `read_text` gives it; `name` is what messages call the file.

    Raises:
        TextFileError: another encoding, or no text.
    """
    _check_head(data[:_HEAD_BYTES], name)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        raise _not_utf8(name, before.count(b"\n") + 1, data[error.start]) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub(f"^{BYTE_ORDER_MARK}", "", text, flags=re.MULTILINE)


def _check_head(head: bytes, name: str | os.PathLike[str]) -> None:
    """Refuse text that is UTF-16 or UTF-32, with a byte-order mark or without, and files that are something else."""
    if kind := describe_content(head):
        raise TextFileError(f"{name}: not a text file, it is {kind}")
    encoding = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        # ASCII in UTF-16 has a zero in every second byte.
        odd, even = head[1::2].count(0), head[::2].count(0)
        if max(odd, even) > len(head) // 4 and min(odd, even) == 0:
            encoding = f"UTF-16 ({'little' if odd else 'big'} endian, without a byte-order mark)"
    if encoding is not None:
        short = encoding.split()[0]
        raise TextFileError(
            f"{name}: is {encoding}, not UTF-8; save it as UTF-8 (iconv -f {short} -t UTF-8, or an editor)"
        )


def _not_utf8(name: str | os.PathLike[str], line: int, byte: int) -> TextFileError:
    return TextFileError(
        f"{name}: line {line} is not UTF-8 (byte 0x{byte:02x}; Latin-1 or Windows-1252?); save it as UTF-8 "
        "(iconv -f WINDOWS-1252 -t UTF-8, or an editor)"
    )
