"""Encoded images to pixels and back. Shapes: N images, H rows, W columns."""

from collections.abc import Sequence

import cv2
import numpy as np

from facelib.data.image_headers import declared_size

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
"""File names of images end in one of these, in upper or lower case."""

# Gigapixel bombs: refuse before the decoder allocates. 64 megapixels is beyond any face image.
MAX_PIXELS = 64_000_000


def encode_image(image: np.ndarray, quality: int = 95) -> bytes:
    """Encode a uint8 [H, W, 3] RGB image as JPEG at `quality` (1..100), the same bytes for the same pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("image: the JPEG encoder failed")
    return bytes(data)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode JPEG, PNG, BMP or WebP bytes to uint8 [H, W, 3] RGB.

    Raises:
        ValueError: the bytes are not an image, or it has more than `max_pixels` pixels.
    """
    return cv2.cvtColor(_decode_bgr(data, max_pixels), cv2.COLOR_BGR2RGB)


def decode_images(images: Sequence[bytes], target: np.ndarray | None = None) -> np.ndarray:
    """Decode images of one size to uint8 [N, 3, H, W] RGB: the pixels of `decode_image`, plane by plane at once.

    Args:
        target: uint8 [N, 3, H, W] to write to; None: a new array.

    Raises:
        ValueError: bytes that are not an image, or images of several sizes.
    """
    for number, data in enumerate(images):
        blue_first = _decode_bgr(data, MAX_PIXELS)
        if target is None:
            target = np.empty((len(images), 3, *blue_first.shape[:2]), np.uint8)
        if blue_first.shape[:2] != target.shape[2:]:
            height, width = blue_first.shape[:2]
            raise ValueError(f"image: {width}x{height} pixels among others of {target.shape[3]}x{target.shape[2]}")
        red, green, blue = target[number]
        cv2.split(blue_first, [blue, green, red])
    return np.empty((0, 3, 0, 0), np.uint8) if target is None else target


def _decode_bgr(data: bytes, max_pixels: int) -> np.ndarray:
    if not data:
        raise ValueError("image: empty data")
    height, width = declared_size(data)
    if height * width > max_pixels:
        raise ValueError(f"image: {width}x{height} pixels exceed the limit of {max_pixels}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"image: not decodable ({error.err})") from None
    if image is None:
        raise ValueError(f"image: {len(data)} bytes that are not a decodable image")
    return image
