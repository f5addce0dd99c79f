import io

import cv2
import numpy as np
import pytest
from PIL import Image

from facelib.data import IMAGE_SUFFIXES, decode_image, decode_images, encode_image


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


def encoded(image, kind, mode="RGB", **options):
    data = io.BytesIO()
    Image.fromarray(image).convert(mode).save(data, kind, **options)
    return data.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "CMYK", {"quality": 95}),  # opencv 25274
        ("JPEG", "RGB", {"progressive": True}),
        ("MPO", "RGB", {}),  # what phones write for depth
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("BMP", "RGB", {}),
        ("WEBP", "RGB", {}),
    ],
)
def test_what_cameras_and_editors_write(kind, mode, options):
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30], image[:, 30:] = (204, 51, 0), (0, 51, 204)
    decoded = decode_image(encoded(image, kind, mode, **options)).astype(int)
    assert np.abs(decoded[5:-5, 5:25] - image[5, 5]).max() < 20
    assert np.abs(decoded[5:-5, 35:55] - image[5, 40]).max() < 20


def test_a_photo_is_turned_as_its_orientation_says():
    """Phones store what the sensor saw, and which side is up (face_recognition 917, detectron2 262)."""
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right
    decoded = decode_image(encoded(image, "JPEG", exif=exif.tobytes()))
    assert decoded.shape == (60, 40, 3)
    assert decoded[:25].min() > 200
    assert decoded[35:].max() < 50


def test_sixteen_bits_are_read_by_their_upper_half():
    depth = np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27
    data = io.BytesIO()
    Image.fromarray(depth).save(data, "PNG")
    assert np.abs(decode_image(data.getvalue())[..., 0].astype(int) - depth / 256).max() <= 1


def test_a_pixel_bomb_is_refused_before_it_is_decoded():
    data = bytearray(encode_image(np.zeros((16, 16, 3), np.uint8)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"  # declares 65535 x 65535 pixels
    with pytest.raises(ValueError, match="exceed the limit"):
        decode_image(bytes(data))


def test_suffixes_are_lower_case_with_a_dot():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)


def test_several_images_are_decoded_to_planes():
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (24, 40, 3), dtype=np.uint8) for _ in range(3)]
    images = [encode_image(pixels[0], 80), encode_image(pixels[1]), cv2.imencode(".png", pixels[2])[1].tobytes()]
    expected = np.stack([decode_image(data) for data in images]).transpose(0, 3, 1, 2)
    assert np.array_equal(decode_images(images), expected)
    target = np.zeros((3, 3, 24, 40), np.uint8)
    assert decode_images(images, target) is target
    assert np.array_equal(target, expected)
    assert decode_images([]).shape[0] == 0
    with pytest.raises(ValueError, match="30x24 pixels among others of 40x24"):
        decode_images([images[0], encode_image(pixels[0][:, :30])])
    with pytest.raises(ValueError, match="not a decodable image"):
        decode_images([images[0], b"text"])
