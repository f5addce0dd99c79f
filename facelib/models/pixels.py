"""Pixel normalization: what a network was trained on, as opposed to the images in [-1, 1] that everything here passes.

A backbone says what its weights expect in its attribute `normalization`, one of `NORMALIZATIONS`; None: nobody knows.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class PixelNormalization(NamedTuple):
    """`(x / 255 − mean) / std` of the channels, which are red, green, blue unless `bgr`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


SYMMETRIC = "symmetric"
NORMALIZATIONS = {
    SYMMETRIC: PixelNormalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),  # [-1, 1]
    "imagenet": PixelNormalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "unit_bgr": PixelNormalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), bgr=True),  # [0, 1]
}


def take_symmetric_pixels(backbone: nn.Module, normalization: str) -> nn.Module:
    """Let a backbone whose weights expect `normalization` take images in [-1, 1]; it is changed in place.

    It converts its input. Its parameters keep their names, and copies, checkpoints and exports of it work as before.

    Raises:
        ValueError: unknown normalization, or the backbone converts already.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization {normalization!r} is unknown: choose one of {', '.join(NORMALIZATIONS)}")
    if hasattr(backbone, "pixel_scale"):
        raise ValueError("the backbone takes images in [-1, 1] already")
    backbone.normalization = normalization  # type: ignore[assignment]
    if normalization == SYMMETRIC:
        return backbone
    mean, std, bgr = NORMALIZATIONS[normalization]
    mean_, std_ = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    # Not persistent: not part of a checkpoint, but moved with the backbone from device to device.
    backbone.register_buffer("pixel_scale", 0.5 / std_, persistent=False)
    backbone.register_buffer("pixel_shift", (0.5 - mean_) / std_, persistent=False)
    backbone.register_forward_pre_hook(_convert_bgr if bgr else _convert)
    return backbone


def _convert(backbone: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *others = inputs
    return (images * backbone.pixel_scale + backbone.pixel_shift, *others)


def _convert_bgr(backbone: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    images, *others = inputs
    return _convert(backbone, (images.flip(1), *others))
