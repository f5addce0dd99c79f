"""RandAugment's operations on one image at a time, for CPUs: the pixels of `operations`, in whole numbers.

An image of a face fits into a core's nearest cache, and OpenCV's loops over it take microseconds; a batch of images,
or intermediate results in floating point, would not fit. What depends on the magnitude alone (sampling grids) is kept:
a magnitude is one of a few dozen. Nothing of the size of an image is allocated: fresh memory costs more than a loop.

Shapes: H height, W width; images uint8 [3, H, W] RGB, contiguous. Magnitudes as in `operations`. Every operation takes
(image, magnitude, target, scratch) and writes all of `target`, which is another array than the image.
"""

import functools
import math
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Fixed = NDArray[np.int32]  # numbers with 16 binary digits after the point
SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], dtype=np.float32) / 13
# ITU-R 601 luma in 16-bit fixed point, and half a level; float32 is exact, every sum has less than 24 digits.
LUMA = np.array([[19595, 38470, 7471, 32768]], np.float32) / 65536
# Half a level less, and OpenCV's rounding cuts off; not quite half, because of the rounding of float32.
CUT = -0.499


class Scratch:
    """Memory for intermediate results on images of one size; for one thread at a time."""

    def __init__(self, height: int, width: int) -> None:
        self.values = np.ones((4, height * width), np.float32)
        self.luma = np.empty((1, height * width), np.float32)
        self.gray = np.empty((height, width), np.uint8)
        self.planes = np.empty((3, height, width), np.uint8)
        self.sampled = np.empty((height, width, 4), np.uint8)
        # OpenCV's merge and split write around the cache what is aligned in memory: the next loop would wait for it.
        self.pixels = _unaligned((height, width, 4), 2)
        self.unused = _unaligned((height, width), 1)


def identity(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """The image as it is."""
    target[:] = image


def shear_x(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Row y is displaced by magnitude * y to the left: the upper left corner stays."""
    _sample(image, _shear_x_grid(magnitude, *image.shape[1:]), target, scratch)


def shear_y(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Column x is displaced by magnitude * x upwards: the upper left corner stays."""
    _sample(image, _shear_y_grid(magnitude, *image.shape[1:]), target, scratch)


def rotate(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Counter-clockwise by magnitude degrees about the center."""
    _sample(image, _rotation_grid(magnitude, *image.shape[1:]), target, scratch)


def translate_x(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """To the right by magnitude pixels, its fraction cut off."""
    pixels, width = min(abs(int(magnitude)), image.shape[2]), image.shape[2]
    if magnitude > 0:
        target[..., pixels:], target[..., :pixels] = image[..., : width - pixels], 0
    else:
        target[..., : width - pixels], target[..., width - pixels :] = image[..., pixels:], 0


def translate_y(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Down by magnitude pixels, its fraction cut off."""
    pixels, height = min(abs(int(magnitude)), image.shape[1]), image.shape[1]
    if magnitude > 0:
        target[:, pixels:], target[:, :pixels] = image[:, : height - pixels], 0
    else:
        target[:, : height - pixels], target[:, height - pixels :] = image[:, pixels:], 0


def brightness(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Blend with black."""
    cv2.convertScaleAbs(_flat(image), dst=_flat(target), alpha=1 + magnitude, beta=CUT)


def contrast(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Blend with the image's mean luminance."""
    gray = luminance(image, scratch)
    mean = math.floor(cv2.sumElems(gray)[0] / gray.size + 0.5)
    cv2.addWeighted(_flat(image), 1 + magnitude, _flat(image), 0, CUT - magnitude * mean, dst=_flat(target))


def color(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Blend with the grayscale image."""
    gray = luminance(image, scratch)
    for plane, result in zip(image, target):
        cv2.addWeighted(plane, 1 + magnitude, gray, -magnitude, CUT, dst=result)


def sharpness(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Blend with a 3x3 smoothed image (center weight 5 of 13); the border row and column stay as they are."""
    channels, height, width = image.shape
    if min(height, width) < 3:
        target[:] = image
        return
    # The planes are one tall image: what a filter mixes at their edges is border.
    tall, smooth = image.reshape(channels * height, width), scratch.planes.reshape(channels * height, width)
    cv2.filter2D(tall, -1, SMOOTH, dst=smooth)
    cv2.addWeighted(tall, 1 + magnitude, smooth, -magnitude, CUT, dst=target.reshape(tall.shape))
    edges = slice(None, None, height - 1)
    target[:, edges] = image[:, edges]
    edges = slice(None, None, width - 1)
    target[..., edges] = image[..., edges]


def posterize(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Keep the upper `magnitude` bits of each value (rounded to whole bits, 0 to 8)."""
    dropped = 8 - min(max(round(magnitude), 0), 8)
    np.bitwise_and(image, np.uint8(0xFF << dropped & 0xFF), out=target)


def solarize(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Invert values of at least `magnitude`."""
    cv2.threshold(_flat(image), math.ceil(magnitude) - 1, 255, cv2.THRESH_BINARY, dst=_flat(target))
    np.bitwise_xor(image, target, out=target)


def invert(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """The negative."""
    np.invert(image, out=target)


def auto_contrast(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Stretch each channel from its darkest to its brightest value."""
    for plane, result in zip(image, target):
        low, high, _, _ = cv2.minMaxLoc(plane)
        if low < high:
            cv2.LUT(plane, _stretch_table(low, high), dst=result)
        else:
            result[:] = plane


def equalize(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Spread each channel's values so that their histogram becomes as flat as it can."""
    counts = np.array([cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel() for plane in image])
    brightest = [int(cv2.minMaxLoc(plane)[1]) for plane in image]
    steps = [(scratch.gray.size - int(row[level])) // 255 for row, level in zip(counts, brightest)]
    # Whole numbers below 2**24, exact in float32, as is a quotient's whole part: it is at most 255.
    tables = np.cumsum(counts, axis=1)
    tables -= counts
    tables += np.array([[step // 2] for step in steps], np.float32)
    tables /= np.array([[step or 1] for step in steps], np.float32)
    levels = np.minimum(tables, 255, out=tables).astype(np.uint8)
    for plane, result, step, table in zip(image, target, steps, levels):
        if step:
            cv2.LUT(plane, table, dst=result)
        else:
            result[:] = plane


def grayscale(image: Image, magnitude: float, target: Image, scratch: Scratch) -> None:
    """Luminance in all three channels."""
    target[:] = luminance(image, scratch)


IMAGE_OPERATIONS: dict[str, Callable[[Image, float, Image, Scratch], None]] = {
    "Identity": identity,
    "ShearX": shear_x,
    "ShearY": shear_y,
    "TranslateX": translate_x,
    "TranslateY": translate_y,
    "Rotate": rotate,
    "Brightness": brightness,
    "Color": color,
    "Contrast": contrast,
    "Sharpness": sharpness,
    "Posterize": posterize,
    "Solarize": solarize,
    "Invert": invert,
    "AutoContrast": auto_contrast,
    "Equalize": equalize,
    "Grayscale": grayscale,
}


def luminance(image: Image, scratch: Scratch) -> Image:
    """uint8 [H, W], which the next operation on the same scratch memory overwrites."""
    np.copyto(scratch.values[:3], image.reshape(3, -1))
    np.matmul(LUMA, scratch.values, out=scratch.luma)
    np.copyto(scratch.gray.reshape(scratch.luma.shape), scratch.luma, casting="unsafe")
    return scratch.gray


def _unaligned(shape: tuple[int, ...], offset: int) -> Image:
    """Memory that begins `offset` bytes after a multiple of 64."""
    memory = np.empty(math.prod(shape) + 128, np.uint8)
    begin = -memory.ctypes.data % 64 + offset
    return memory[begin : begin + math.prod(shape)].reshape(shape)


def _flat(image: Image) -> Image:
    """One row, over which OpenCV's loops are fastest."""
    return image.reshape(1, -1)


@functools.lru_cache(maxsize=4096)
def _stretch_table(low: float, high: float) -> Image:
    scale = 255 / (high - low)
    return np.clip(np.arange(256) * scale - low * scale, 0, 255).astype(np.uint8)


def _sample(image: Image, grid: NDArray[np.int16], target: Image, scratch: Scratch) -> None:
    """image[:, y, x] at the grid's x and y [H, W, 2] where that lies inside, else black."""
    red, green, blue = image
    cv2.merge([red, green, blue, red], dst=scratch.pixels)
    # A pixel is four bytes, and travels as one number of four bytes, which is never calculated with.
    pixels, sampled = (array.view(np.float32)[..., 0] for array in (scratch.pixels, scratch.sampled))
    cv2.remap(pixels, grid, None, cv2.INTER_NEAREST, dst=sampled, borderMode=cv2.BORDER_CONSTANT)
    cv2.split(scratch.sampled, [*target, scratch.unused])


# 64 grids are all that a magnitude of 16 draws; at 112 x 112 pixels they take 3 MB.
@functools.lru_cache(maxsize=64)
def _shear_x_grid(slope: float, height: int, width: int) -> NDArray[np.int16]:
    x, y = _axes(height, width)
    return _grid(x + (_fixed(slope) * (y >> 16) + _fixed(0.5 + 0.5 * slope)), y + np.zeros_like(x))


@functools.lru_cache(maxsize=64)
def _shear_y_grid(slope: float, height: int, width: int) -> NDArray[np.int16]:
    x, y = _axes(height, width)
    return _grid(x + np.zeros_like(y), y + (_fixed(slope) * (x >> 16) + _fixed(0.5 + 0.5 * slope)))


@functools.lru_cache(maxsize=64)
def _rotation_grid(degrees: float, height: int, width: int) -> NDArray[np.int16]:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    center_x, center_y = width / 2, height / 2
    start_x = center_x - cos * (center_x - 0.5) + sin * (center_y - 0.5)
    start_y = center_y - sin * (center_x - 0.5) - cos * (center_y - 0.5)
    x, y = (axis >> 16 for axis in _axes(height, width))
    return _grid(
        _fixed(cos) * x + (_fixed(-sin) * y + _fixed(start_x)), _fixed(sin) * x + (_fixed(cos) * y + _fixed(start_y))
    )


def _axes(height: int, width: int) -> tuple[Fixed, Fixed]:
    """Columns [1, W] and rows [H, 1]."""
    return np.arange(width, dtype=np.int32)[None] << 16, np.arange(height, dtype=np.int32)[:, None] << 16


def _fixed(value: float) -> np.int32:
    """As Pillow rounds it, so that exact ties (a slope of 0.04 has one every 25 rows) fall the same way."""
    return np.int32(math.floor(value * 65536 + 0.5))


def _grid(x: Fixed, y: Fixed) -> NDArray[np.int16]:
    """Whole numbers below x and y [H, W], as `cv2.remap` takes them."""
    return np.stack([x >> 16, y >> 16], axis=2).astype(np.int16)
