"""The operations of RandAugment on batches, each image with its own magnitude, for GPUs.

The numbers are those of Pillow's (which the published training used through torchvision): the same nearest
neighbors, the same rounding. Operations that map a value to a value build a table of 256 entries an image, and
look it up; geometric ones gather nearest pixels, black outside. Everything stays uint8, on whatever device the
images are; on a CPU the same operations on one image at a time are faster (`image_operations`).

Shapes: n images of one group, H height, W width; images uint8 [n, 3, H, W] RGB, magnitudes float [n].
Magnitudes: ShearX and ShearY slope; TranslateX and TranslateY pixels; Rotate degrees (counter-clockwise); Brightness,
Color, Contrast and Sharpness factor - 1; Posterize bits kept; Solarize threshold (values from it on are inverted); the
others none.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

from facelib.utils.devices import to_device

Operation = Callable[[Tensor, Tensor], Tensor]


def identity(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Images as they are."""
    return images


def shear_x(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Row y is displaced by magnitude * y to the left: the upper left corner stays."""
    x, y = _grid(images)
    slopes = magnitudes.to(torch.float64)
    return _gather_pixels(images, x + _affine(torch.zeros_like(slopes), slopes, 0.5 + 0.5 * slopes, x[:1], y), y)


def shear_y(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Column x is displaced by magnitude * x upwards: the upper left corner stays."""
    x, y = _grid(images)
    slopes = magnitudes.to(torch.float64)
    return _gather_pixels(images, x, y + _affine(slopes, torch.zeros_like(slopes), 0.5 + 0.5 * slopes, x, y[:1]))


def translate_x(images: Tensor, magnitudes: Tensor) -> Tensor:
    """To the right by magnitude pixels, its fraction cut off."""
    x, y = _grid(images)
    return _gather_pixels(images, x - magnitudes.trunc().to(torch.int32)[:, None, None], y)


def translate_y(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Down by magnitude pixels, its fraction cut off."""
    x, y = _grid(images)
    return _gather_pixels(images, x, y - magnitudes.trunc().to(torch.int32)[:, None, None])


def rotate(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Counter-clockwise by magnitude degrees about the center."""
    x, y = _grid(images)
    center_x, center_y = images.shape[3] / 2, images.shape[2] / 2
    radians = torch.deg2rad(magnitudes.to(torch.float64))
    cos, sin = torch.cos(radians), torch.sin(radians)
    start_x = center_x - cos * (center_x - 0.5) + sin * (center_y - 0.5)
    start_y = center_y - sin * (center_x - 0.5) - cos * (center_y - 0.5)
    return _gather_pixels(images, _affine(cos, -sin, start_x, x, y), _affine(sin, cos, start_y, x, y))


def brightness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Blend with black."""
    return look_up(images, _blend(torch.zeros_like(magnitudes)[:, None], _values(images), _factors(magnitudes)))


def contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Blend with the image's mean luminance."""
    # float32 sums whole numbers exactly below 2**24, so row by row.
    sums = _luma(images.to(torch.float32)).sum(2).to(torch.float64).sum(1, keepdim=True)
    mean = torch.floor(sums / (images.shape[2] * images.shape[3]) + 0.5)
    return look_up(images, _blend(mean, _values(images), _factors(magnitudes)))


def color(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Blend with the grayscale image."""
    values = images.to(torch.float32)
    gray = _luma(values).unsqueeze(1)
    factors = (1 + magnitudes.to(torch.float32))[:, None, None, None]
    return _truncate(values.sub_(gray).mul_(factors).add_(gray))


def sharpness(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Blend with a 3x3 smoothed image (center weight 5 of 13); the border row and column stay as they are."""
    height, width = images.shape[2:]
    if min(height, width) < 3:
        return images
    result = _sharpened(images, magnitudes)
    for border in (0, -1):
        result[:, :, border] = images[:, :, border]
        result[..., border] = images[..., border]
    return result


def posterize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Keep the upper `magnitude` bits of each value (rounded to whole bits, 0 to 8)."""
    dropped = 2.0 ** (8 - magnitudes.to(torch.float64).round().clamp(0, 8))[:, None]
    return look_up(images, torch.floor(_values(images) / dropped) * dropped)


def solarize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Invert values of at least `magnitude`."""
    values = _values(images)
    return look_up(images, torch.where(values < magnitudes[:, None], values, 255 - values))


def invert(images: Tensor, magnitudes: Tensor) -> Tensor:
    """The negative."""
    return 255 - images


def auto_contrast(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Stretch each channel from its darkest to its brightest value."""
    flat = images.flatten(2)
    low, high = flat.amin(2).to(torch.float64)[..., None], flat.amax(2).to(torch.float64)[..., None]
    values = _values(images)
    scale = torch.full_like(low, 255).div_((high - low).clamp(min=1))  # 255 / x would multiply by a rounded 1 / x
    stretched = (values * scale - low * scale).clamp(0, 255).trunc()
    return look_up(images, torch.where(high > low, stretched, values))


def equalize(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Spread each channel's values so that their histogram becomes as flat as it can."""
    counts = histograms(images)
    last = counts.gather(-1, images.flatten(2).amax(2, keepdim=True).to(torch.int64))
    step = torch.div(counts.sum(-1, keepdim=True) - last, 255, rounding_mode="floor")
    before = counts.cumsum(-1) - counts
    table = torch.div(torch.div(step, 2, rounding_mode="floor") + before, step.clamp(min=1), rounding_mode="floor")
    return look_up(images, torch.where(step > 0, table.clamp(max=255), _values(images).to(torch.int64)))


def grayscale(images: Tensor, magnitudes: Tensor | None = None) -> Tensor:
    """Luminance in all three channels."""
    return luminance(images).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()


OPERATIONS: dict[str, Operation] = {
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


def luminance(images: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] -> uint8 [n, H, W], ITU-R 601 luma in 16-bit fixed point."""
    return _luma(images.to(torch.float32)).to(torch.uint8)


def on_device(values: np.ndarray, device: torch.device) -> Tensor:
    """What the host decided, for a device; the host does not wait for the copy."""
    return to_device(torch.tensor(values), device)


def rows_of(images: Tensor, rows: Tensor) -> Tensor:
    """images[rows]; rows int64 [n] on the device of the images."""
    if images.device.type == "cpu":
        return torch.from_numpy(images.numpy()[rows.numpy()])  # copies whole images where torch goes pixel by pixel
    return images.index_select(0, rows)


def put_rows(images: Tensor, rows: Tensor, values: Tensor) -> None:
    """images[rows] = values, in place; rows int64 [n] on the device of the images."""
    if images.device.type == "cpu":
        images.numpy()[rows.numpy()] = values.numpy()
    else:
        images.index_copy_(0, rows, values)


def check_batch(images: Tensor) -> None:
    """Raises ValueError unless images are uint8 [N, 3, H, W]."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            f"augmentation works on uint8 [N, 3, H, W], got {images.dtype} {list(images.shape)}; "
            f"augment before to_network_input"
        )


def _values(images: Tensor) -> Tensor:
    return torch.arange(256, dtype=torch.float64, device=images.device)


def _factors(magnitudes: Tensor) -> Tensor:
    return 1 + magnitudes.to(torch.float64)[:, None]


def _blend(base: Tensor, values: Tensor, factors: Tensor) -> Tensor:
    """Tables of base + factor * (value - base), cut (not rounded) to whole levels."""
    # Pillow computes in float32; without the tiny lift, whole results of float64 fall one level.
    return (base + factors * (values - base)).add(1e-4).clamp(0, 255).floor()


def _truncate(values: Tensor) -> Tensor:
    return values.add_(1e-3).clamp_(0, 255).to(torch.uint8)


def _luma(values: Tensor) -> Tensor:
    """float32 whole levels [n, 3, H, W] -> [n, H, W]. Exact: every sum stays below 2**24."""
    red, green, blue = values.unbind(1)
    luma = (red * 19595).add_(green, alpha=38470).add_(blue, alpha=7471).add_(32768)
    return luma.mul_(1 / 65536).floor_()


def look_up(images: Tensor, tables: Tensor) -> Tensor:
    """Tables [n, 256] or [n, 3, 256] of whole levels, one an image or one a channel."""
    tables = tables.to(torch.uint8).reshape(len(images), -1, 256)
    if images.device.type != "cpu":
        return look_up_by_gather(images, tables)
    rows = images.reshape(len(images) * tables.shape[1], -1)
    result = torch.empty_like(rows)
    for row, table, target in zip(rows.numpy(), tables.view(-1, 256).numpy(), result.numpy()):
        cv2.LUT(row[None], table[None], dst=target[None])  # three times as fast as a gather with 64-bit indices
    return result.view(images.shape)


def look_up_by_gather(images: Tensor, tables: Tensor) -> Tensor:
    """`look_up` in torch alone; tables uint8 [n, 1, 256] or [n, 3, 256]."""
    rows = images.reshape(len(images), tables.shape[1], -1)
    return tables.gather(2, rows.to(torch.int64)).view(images.shape)


def _sharpened(images: Tensor, magnitudes: Tensor) -> Tensor:
    """Sharpness without regard to the border."""
    kernel = torch.ones(1, 1, 3, 3, device=images.device)  # 13 times the weights: whole numbers, so sums are exact
    kernel[0, 0, 1, 1].fill_(5)
    values = images.to(torch.float32)
    total = torch.nn.functional.conv2d(values.flatten(0, 1)[:, None], kernel, padding=1).view(images.shape)
    smooth = total.add_(6.5).mul_(1 / 13).floor_()  # no sum lies on a tie: 13 is odd
    factors = (1 + magnitudes.to(torch.float32))[:, None, None, None]
    return _truncate(values.sub_(smooth).mul_(factors).add_(smooth))


def histograms(images: Tensor) -> Tensor:
    """int64 [n, 3, 256]. Not by `bincount`, which waits for the largest value of a GPU's images."""
    index = images.flatten(2).to(torch.int64)
    counts = torch.zeros(*index.shape[:2], 256, dtype=torch.int64, device=images.device)
    return counts.scatter_add_(2, index, torch.ones_like(index))


def _grid(images: Tensor) -> tuple[Tensor, Tensor]:
    """Columns int32 [W] and rows int32 [H, 1]."""
    height, width = images.shape[2:]
    x = torch.arange(width, dtype=torch.int32, device=images.device)
    return x, torch.arange(height, dtype=torch.int32, device=images.device)[:, None]


def _affine(a: Tensor, b: Tensor, start: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """floor(a x + b y + start) for each image's float64 a, b, start [n] -> int32 [n, H, W].

    In 16-bit fixed point as in Pillow, so that exact ties (a slope of 0.04 has one every 25 rows) fall the same way.
    """
    a, b, start = (torch.floor(v * 65536 + 0.5).to(torch.int32)[:, None, None] for v in (a, b, start))
    return (a * x + (b * y + start)).bitwise_right_shift_(16)


def _gather_pixels(images: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """images[:, :, y, x] where that lies inside, else black; x and y int32, broadcasting to [n, H, W]."""
    n, channels, height, width = images.shape
    framed = torch.nn.functional.pad(images, (1, 1, 1, 1))  # every pixel outside is read from the black frame
    row_start = y.clamp(-1, height).add_(1).mul_(width + 2).add_(1)
    index = (x.clamp(-1, width) + row_start).to(torch.int64).view(n, 1, height * width)
    return framed.view(n, channels, -1).gather(2, index.expand(-1, channels, -1)).view(images.shape)
