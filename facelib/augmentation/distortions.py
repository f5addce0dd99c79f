"""What cameras, compression and the world do to faces: batched, each image with its own parameters.

Every function takes uint8 images [n, 3, H, W] RGB, uniform numbers float64 [n, k] in [0, 1) on the same device that
decide the parameters, and an amplitude that bounds them; amplitude 0 changes nothing. Resizing, blurring and cropping
are separable linear maps, written as one matrix for the rows and one for the columns: any mixture of parameters is two
batched matrix products.

Shapes: n images, H height, W width.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from facelib.augmentation.operations import look_up, luminance, put_rows, rows_of

NOISE_OFFSETS = 1 << 16


def horizontal_flip(images: Tensor, rows: Tensor) -> Tensor:
    """A copy in which the images of `rows`, int64 [n] on the same device, are mirrored."""
    flipped = images.clone(memory_format=torch.contiguous_format)
    put_rows(flipped, rows, rows_of(flipped, rows).flip(3))
    return flipped


def shift_scale(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Zoom by a factor in [1/(1+a), 1+a] about the center and shift by up to a/2 of the side, black outside.

    Bilinear, smoothed where it shrinks. draws [n, 3]: scale, horizontal shift, vertical shift.
    """
    scale = _signed_power(draws[:, 0], amplitude)
    shift = amplitude * (draws[:, 1:3] - 0.5)
    matrices = []
    for side, offset in ((images.shape[2], shift[:, 1]), (images.shape[3], shift[:, 0])):
        centers = torch.arange(side, dtype=torch.float64, device=draws.device) + 0.5 - side / 2
        source = (centers[None] - offset[:, None] * side) / scale[:, None] + side / 2 - 0.5
        matrices.append(_resampling(source, 1 / scale, 1 + amplitude, side, black_outside=True))
    return _separable(images, *matrices)


CROP_ATTEMPTS = 10


def random_resized_crop(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """A box of 1 - amplitude to 1 of the area and 3/4 to 4/3 of the aspect ratio, resized to the image's size.

    torchvision's RandomResizedCrop, bilinear: the first of ten attempts that fits, else the whole image. draws [n, 22]:
    area and aspect ratio of each attempt, and where the box lies, from the top and from the left.
    """
    height, width = images.shape[2:]
    attempts = draws[:, : 2 * CROP_ATTEMPTS].reshape(len(draws), CROP_ATTEMPTS, 2)
    area = height * width * (1 - amplitude * attempts[..., 0])
    ratio = torch.exp(math.log(4 / 3) * (2 * attempts[..., 1] - 1))
    columns, rows = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    found = fits.any(1)
    matrices = []
    for sizes, side, position in ((rows, height, draws[:, -2]), (columns, width, draws[:, -1])):
        size = torch.where(found, sizes.gather(1, first)[:, 0], side)[:, None]
        begin = torch.floor(position[:, None] * (side - size + 1))
        centers = torch.arange(side, dtype=torch.float64, device=draws.device) + 0.5
        source = (centers * size / side - 0.5).clamp(min=0).minimum(size - 1) + begin
        matrices.append(_resampling(source, torch.ones_like(size[:, 0]), 1.0, side, black_outside=False))
    return _separable(images, *matrices)


def gaussian_blur(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Standard deviation up to `amplitude` hundredths of the side. draws [n, 1]."""

    def matrices(side: int) -> Tensor:
        sigma = (draws[:, 0] * amplitude * side / 100).clamp(min=1e-2).to(torch.float32)[:, None, None]
        index = torch.arange(side, dtype=torch.float32, device=draws.device)
        weights = torch.exp(-0.5 * ((index[:, None] - index) / sigma) ** 2)
        # Weights too small to matter are often denormal numbers, with which products take fifty times as long.
        weights = weights.masked_fill_(weights < 1e-6, 0.0)
        return weights.div_(weights.sum(2, keepdim=True))

    return _separable(images, *_both_sides(images, matrices))


def low_resolution(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Shrink to between 1 and 1 - amplitude of the side, and enlarge again. draws [n, 1]."""

    def matrices(side: int) -> Tensor:
        small = torch.round(side * (1 - amplitude * draws[:, 0])).clamp(min=2)[:, None]
        index = torch.arange(side, dtype=torch.float64, device=draws.device)
        largest = side / max(2, round(side * (1 - amplitude)))
        # Rows past the small size exist too (the batch is rectangular), but no enlarged pixel reads them.
        centers = (index + 0.5) * side / small - 0.5
        shrink = _resampling(centers, side / small[:, 0], largest, side, black_outside=False)
        source = torch.minimum((index + 0.5) * small / side - 0.5, small - 1)
        return _resampling(source, torch.ones_like(small[:, 0]), 1.0, side, black_outside=False) @ shrink

    return _separable(images, *_both_sides(images, matrices))


def additive_noise(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Gaussian noise, independent between pixels and channels, standard deviation up to `amplitude` levels.

    draws [n, 2]: deviation, and which part of a fixed table of normal numbers.
    """
    count = images[0].numel()
    start = (draws[:, 1] * NOISE_OFFSETS).long().clamp_(max=NOISE_OFFSETS - 1)
    noise = _normal_table(count + NOISE_OFFSETS, images.device)
    noise = noise[start[:, None] + torch.arange(count, device=images.device)].view(images.shape)
    sigma = (draws[:, 0] * amplitude).to(torch.float32)
    return _to_uint8(images.to(torch.float32).addcmul_(noise, sigma[:, None, None, None]))


def cutout(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Cover a rectangle, each side up to `amplitude` of the image's, in one random color.

    draws [n, 7]: height, width, center y, center x, red, green, blue.
    """
    inside = []
    for axis, side in enumerate(images.shape[2:]):
        half = 0.5 * amplitude * draws[:, axis : axis + 1] * side
        center = draws[:, axis + 2 : axis + 3] * side
        inside.append((torch.arange(side, device=draws.device) + 0.5 - center).abs() < half)
    mask = (inside[0][:, None, :, None] & inside[1][:, None, None, :]).to(torch.uint8)
    color = (draws[:, 4:7] * 256).to(torch.uint8)[:, :, None, None]
    return images * (1 - mask) + color * mask


def color_jitter(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Brightness, contrast, saturation and white balance, each by a factor in [1/(1+a), 1+a].

    draws [n, 5]: brightness, contrast, saturation, and the gains of red and of blue (half as strong).
    """
    light, contrast, saturation, red, blue = _signed_power(draws.T, amplitude).to(torch.float32)
    gains = torch.stack([light * red.sqrt(), light, light * blue.sqrt()], dim=1)[:, :, None, None]
    x = images.to(torch.float32).mul_(gains)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean).mul_(contrast[:, None, None, None]).add_(mean)
    gray = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]).unsqueeze(1)
    return _to_uint8((x - gray).mul_(saturation[:, None, None, None]).add_(gray))


def gamma(images: Tensor, draws: Tensor, amplitude: float) -> Tensor:
    """Values to the power of an exponent in [1/(1+a), 1+a]. draws [n, 1]."""
    exponents = _signed_power(draws[:, :1], amplitude)
    values = torch.arange(256, dtype=torch.float64, device=images.device) / 255
    return look_up(images, (255 * values**exponents).round())


def grayscale(images: Tensor) -> Tensor:
    """Luminance in all three channels."""
    return luminance(images).unsqueeze(1).repeat(1, 3, 1, 1)


def _signed_power(draws: Tensor, amplitude: float) -> Tensor:
    """(1 + amplitude) ** u, u uniform in [-1, 1): a factor and its inverse are equally likely."""
    return torch.exp(math.log1p(amplitude) * (2 * draws - 1))


def _resampling(source: Tensor, support: Tensor, largest: float, side: int, black_outside: bool) -> Tensor:
    """Matrices [n, I, side] reading at `source` [n, I] with a triangle of half width max(1, support [n]) ≤ largest."""
    pad = math.ceil(max(1.0, largest)) + 1
    index = torch.arange(-pad, side + pad, dtype=torch.float32, device=source.device)
    width = support.to(torch.float32).clamp(min=1)[:, None, None]
    weights = (source.to(torch.float32)[..., None] - index).abs_().div_(width).neg_().add_(1).clamp_(min=0)
    inside = weights[..., pad : pad + side]
    total = (weights if black_outside else inside).sum(2, keepdim=True)
    return inside / total.clamp_(min=1e-6)


def _both_sides(images: Tensor, matrices: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
    """The matrices for rows and for columns, made once where the image is square."""
    height, width = images.shape[2:]
    rows = matrices(height)
    return rows, rows if width == height else matrices(width)


def _separable(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns^T for every channel; rows [n, H, H], columns [n, W, W]."""
    rows, columns = rows.to(torch.float32).unsqueeze(1), columns.to(torch.float32).unsqueeze(1)
    return _to_uint8(rows @ (images.to(torch.float32) @ columns.transpose(2, 3)))


def _to_uint8(values: Tensor) -> Tensor:
    return values.add_(0.5).clamp_(0, 255).to(torch.uint8)


@functools.lru_cache(maxsize=4)
def _normal_table(count: int, device: torch.device) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(0)).to(device, non_blocking=True)
