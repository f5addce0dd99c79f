import struct

import cv2
import numpy as np
import pytest

from facelib.data.image_headers import declared_size, ends_properly

PICTURE = np.random.default_rng(0).integers(0, 255, (37, 53, 3), np.uint8)
FORMATS = {
    "jpeg": (".jpg", []),
    "progressive jpeg": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "png": (".png", []),
    "bmp": (".bmp", []),
    "webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "lossless webp": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
}


def encoded(name):
    suffix, settings = FORMATS[name]
    return cv2.imencode(suffix, PICTURE, settings)[1].tobytes()


def test_smallest_example():
    assert declared_size(encoded("jpeg")) == (37, 53)


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name):
    data = encoded(name)
    assert declared_size(data) == (37, 53)
    assert ends_properly(data)
    assert not ends_properly(data[: len(data) // 2])
    assert not ends_properly(data[:-20])


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_anywhere_is_a_size_or_an_error(name):
    data = encoded(name)
    for length in range(len(data)):
        try:
            assert declared_size(data[:length]) == (37, 53)
        except ValueError as error:
            assert "image: " in str(error)  # noqa: PT017
    with pytest.raises(ValueError, match="not a decodable image"):
        declared_size(b"")


def test_unusual_headers():
    jpeg = encoded("jpeg")
    assert declared_size(jpeg[:2] + b"\xff" * 5 + jpeg[2:]) == (37, 53)  # fill bytes before a marker
    top_down = bytearray(encoded("bmp"))
    top_down[22:26] = struct.pack("<i", -37)
    assert declared_size(bytes(top_down)) == (37, 53)
    os2 = b"BM" + bytes(12) + struct.pack("<IHH", 12, 53, 37)
    assert declared_size(os2) == (37, 53)
    extended = b"RIFF" + bytes(4) + b"WEBPVP8X" + bytes(8) + (52).to_bytes(3, "little") + (36).to_bytes(3, "little")
    assert declared_size(extended) == (37, 53)


@pytest.mark.parametrize(
    "data", [b"GIF89a" + bytes(40), b"II*\0" + bytes(40), b"text", b"\xff\xd8\xff\xda" + bytes(40)]
)
def test_others_are_refused(data):
    with pytest.raises(ValueError, match="image: "):
        declared_size(data)


def test_an_embedded_preview_does_not_hide_a_truncation():
    jpeg = encoded("jpeg")
    preview = b"\xff\xe1" + struct.pack(">H", len(jpeg) + 2) + jpeg
    whole = jpeg[:2] + preview + jpeg[2:]
    assert declared_size(whole) == (37, 53)
    assert ends_properly(whole)
    assert not ends_properly(whole[: len(whole) - 200])
