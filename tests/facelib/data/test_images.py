import numpy as np
import pytest

from facelib.data import IMAGE_SUFFIXES, decode_image, encode_image


def test_the_codec_keeps_colors_and_refuses_other_data():
    image = np.zeros((40, 30, 3), np.uint8)
    image[..., 0] = 200
    decoded = decode_image(encode_image(image, 95))
    assert decoded.shape == (40, 30, 3)
    assert decoded[..., 0].mean() > 190
    assert decoded[..., 2].mean() < 10
    with pytest.raises(ValueError, match="not a decodable image"):
        decode_image(b"not an image")
    with pytest.raises(ValueError, match="empty"):
        decode_image(b"")
    with pytest.raises(ValueError, match="uint8"):
        encode_image(image.astype(np.float32))


def test_a_pixel_bomb_is_refused_before_it_is_decoded():
    data = bytearray(encode_image(np.zeros((16, 16, 3), np.uint8)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # declares 65535 x 65535 pixels
    with pytest.raises(ValueError, match="exceed the limit"):
        decode_image(bytes(data))


def test_suffixes_are_lower_case_with_a_dot():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
