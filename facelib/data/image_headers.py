"""Size of an encoded image as its header declares it, read without decoding: JPEG, PNG, BMP and WebP.

A few kilobytes can declare gigapixels, and a decoder allocates them before it looks at the data.
"""

from __future__ import annotations

from facelib.utils.file_kinds import HEAD_BYTES, describe_content

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Start-of-frame markers hold the size; the four others of their range are tables.
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a length: fill, TEM, RST0 to RST7, SOI.
_BARE = {0x01, *range(0xD0, 0xD9)}
_SCAN = 0xDA


def declared_size(data: bytes) -> tuple[int, int]:
    """(height, width) in pixels from the header.

    Raises:
        ValueError: not one of the four formats, or a header without a size.
    """
    size = {".jpg": _jpeg_size, ".png": _png_size, ".bmp": _bmp_size, ".webp": _webp_size}[image_suffix(data)](data)
    if min(size) < 1:
        raise ValueError("image: its header holds no size (truncated or damaged)")
    return size


def image_suffix(data: bytes) -> str:
    """The suffix of a file with these bytes: .jpg, .png, .bmp or .webp.

    Raises:
        ValueError: none of the four formats.
    """
    if data[:2] == b"\xff\xd8":
        return ".jpg"
    if data[:8] == PNG_SIGNATURE:
        return ".png"
    if data[:2] == b"BM":
        return ".bmp"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return ".webp"
    kind = describe_content(data[:HEAD_BYTES])
    found = f"it is {kind}" if kind else "no JPEG, PNG, BMP or WebP"
    raise ValueError(f"image: {len(data)} bytes that are not a decodable image ({found})")


def ends_properly(data: bytes) -> bool:
    """Whether the end mark of a JPEG or PNG, or the declared length of a BMP or WebP, is present.

    Detects truncated files without decoding them; damage in the middle goes unnoticed.
    """
    if data[:2] == b"\xff\xd8":
        # Inside a scan the two bytes have no other meaning; before it, an embedded preview has its own.
        return data.find(b"\xff\xd9", max(data.rfind(b"\xff\xda"), 0)) >= 0
    if data[:8] == PNG_SIGNATURE:
        return b"IEND" in data[-64:]
    declared = int.from_bytes(data[2:6], "little") if data[:2] == b"BM" else int.from_bytes(data[4:8], "little") + 8
    return len(data) >= declared


def _jpeg_size(data: bytes) -> tuple[int, int]:
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            return 0, 0
        marker = data[position + 1]
        if marker == 0xFF:  # Any number of fill bytes may precede a marker.
            position += 1
            continue
        if marker in _FRAMES:
            height = int.from_bytes(data[position + 5 : position + 7], "big")
            return height, int.from_bytes(data[position + 7 : position + 9], "big")
        if marker == _SCAN:
            return 0, 0
        position += 2 if marker in _BARE else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return 0, 0


def _png_size(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _bmp_size(data: bytes) -> tuple[int, int]:
    if int.from_bytes(data[14:18], "little") == 12:  # the header of OS/2
        return int.from_bytes(data[20:22], "little"), int.from_bytes(data[18:20], "little")
    # A negative height means that rows start at the top.
    height = int.from_bytes(data[22:26], "little", signed=True)
    return abs(height), int.from_bytes(data[18:22], "little", signed=True)


def _webp_size(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if len(data) < 30:
        return 0, 0
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if kind == b"VP8 ":
        return int.from_bytes(data[28:30], "little") & 0x3FFF, int.from_bytes(data[26:28], "little") & 0x3FFF
    return 0, 0
