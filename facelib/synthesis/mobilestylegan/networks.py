"""MobileStyleGAN in PyTorch (Belousov 2021, arXiv 2104.04767): z → w, and one w a layer → features → image.

The arithmetic is the published one, the layout is not: feature maps are channels-last, and the four bands of each
wavelet transform are four blocks of channels, so that upsampling is additions of whole blocks.

Shapes: N batch, C channels, S feature size, L = 23 modulations (styles) in the order of `STYLE_LAYERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.synthesis.mobilestylegan.weights import MAPPING_LAYERS, RESOLUTIONS, Floats

# Every modulation with the size of the features it scales, in the order of the network.
STYLE_LAYERS: tuple[tuple[str, int], ...] = (
    ("conv1", 4),
    *(
        (f"layers.{i}.{part}", size // 2 if part == "up" else size)
        for i, size in enumerate(RESOLUTIONS)
        for part in ("up", "conv1", "conv2")
    ),
    ("to_img", RESOLUTIONS[-1]),
)
CUTS = (64, 128)
IMAGE_SIZE = 2 * RESOLUTIONS[-1]


def style_count(cut: int) -> int:
    """How many of the styles the features of size `cut` depend on, with the two of the next layer that scale them."""
    return 3 + 3 * (RESOLUTIONS.index(cut) + 1)


class MappingNetwork(nn.Module):
    """z → w: normalization and 8 dense layers."""

    def __init__(self, tables: Mapping[str, Floats]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(MAPPING_LAYERS):
            self.layers.append(Linear(tables[f"mapping.{i}.weight"], tables[f"mapping.{i}.bias"]))
        self.gain = float(tables["mapping.gain"])

    def forward(self, z: Tensor) -> Tensor:
        """w [N, 512] of z [N, 512]."""
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        return x * self.gain


class SynthesisNetwork(nn.Module):
    """Styles → features of size `cut`, or the image of 1024 pixels.

    Args:
        tables: see `weights.synthesis_tables`.
        cut: size of the features to stop at (64 or 128); None: the whole network.
    """

    def __init__(self, tables: Mapping[str, Floats], cut: int | None = None) -> None:
        super().__init__()
        if cut is not None and cut not in CUTS:
            raise ValueError(f"cut is {cut}: choose one of {', '.join(map(str, CUTS))}, or None for the whole network")
        self.cut = cut
        last = RESOLUTIONS.index(cut) if cut else len(RESOLUTIONS) - 1
        self.register_buffer("constant", torch.tensor(tables["input"]))
        self.dtype = torch.float32
        self.conv1 = _Convolution(tables, "conv1", bands=True)
        self.layers = nn.ModuleList(_Layer(tables, i) for i in range(last + 1))
        if cut is None:
            self.to_img = _Style(tables, "to_img")
            order, half = band_order(len(tables["to_img.bias"])), np.float32(0.5)
            self.to_img_conv = Conv2d(tables["to_img.weight"][order] * half, tables["to_img.bias"][order] * half)
        else:
            self.up = _Upsampling(tables, last + 1)

    def set_precision(self, dtype: torch.dtype) -> SynthesisNetwork:
        """Compute features in float32 or bfloat16; styles are float32 always."""
        self.dtype = dtype
        for module in self.modules():
            if isinstance(module, Conv2d):
                module.to(dtype)
            elif isinstance(module, _Convolution):
                module.noise = module.get_buffer("noise").to(dtype)
        return self

    def forward(self, w: Tensor) -> Tensor:
        """Images [N, 3, 1024, 1024] in [-1, 1] (a little beyond), or features [N, C, cut, cut].

        The features are scaled as the next layer would scale them, before and after its upsampling.

        Args:
            w: [N, L, 512], one row for each of the first L of `STYLE_LAYERS`: `style_count(cut)`, or all 23.
        """
        constant = self.get_buffer("constant")
        x = constant.to(self.dtype).expand(len(w), -1, -1, -1)
        x = self.conv1(x.contiguous(memory_format=torch.channels_last), w[:, 0])
        for i, layer in enumerate(self.layers):
            x = layer(x, w[:, 1 + 3 * i : 4 + 3 * i])
        end = 1 + 3 * len(self.layers)
        if self.cut is not None:
            return self.up(x, w[:, end], w[:, end + 1])
        return inverse_haar(self.to_img_conv(self.to_img(x, w[:, end])))


def inverse_haar(x: Tensor) -> Tensor:
    """Features [N, C, 2S, 2S] of half their wavelet bands [N, 4C, S, S]: means, then details of rows, columns and both.

    Half: the filters' factor of 1/√2 each way is left to whoever makes the bands. No gradient passes.
    """
    n, bands, h, w = x.shape
    low, rows, columns, both = x.permute(0, 2, 3, 1).reshape(n, h, w, 4, bands // 4).unbind(3)
    pixels = x.new_empty(n, h, 2, w, 2, bands // 4)
    upper, lower, left, right = low + rows, low - rows, columns + both, columns - both
    torch.add(upper, left, out=pixels[:, :, 0, :, 0])
    torch.sub(upper, left, out=pixels[:, :, 0, :, 1])
    torch.add(lower, right, out=pixels[:, :, 1, :, 0])
    torch.sub(lower, right, out=pixels[:, :, 1, :, 1])
    return pixels.view(n, 2 * h, 2 * w, bands // 4).permute(0, 3, 1, 2)


class _Style(nn.Module):
    """Scales channels by an affine function of w. The function stays float32."""

    def __init__(self, tables: Mapping[str, Floats], key: str, bands: bool = False) -> None:
        super().__init__()
        weight, bias = tables[f"{key}.style.weight"], tables[f"{key}.style.bias"]
        if bands:
            order = band_order(len(bias))
            weight, bias = weight[order] * np.float32(0.5), bias[order] * np.float32(0.5)
        self.affine = Linear(weight, bias)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return x * self.affine(w)[:, :, None, None].to(x.dtype)


class _Convolution(nn.Module):
    """Style, (depthwise and pointwise, or 3 × 3) convolution, constant noise, bias, leaky ReLU."""

    def __init__(self, tables: Mapping[str, Floats], key: str, bands: bool = False, styled: bool = True) -> None:
        super().__init__()
        self.style = _Style(tables, key) if styled else None
        depthwise = tables.get(f"{key}.depthwise")
        self.depthwise = None if depthwise is None else Conv2d(depthwise, None, groups=len(depthwise))
        weight, bias = tables[f"{key}.weight"], tables[f"{key}.bias"]
        order = band_order(len(bias)) if bands else slice(None)
        self.conv = Conv2d(weight[order], bias[order])
        self.register_buffer("noise", torch.tensor(tables[f"{key}.noise"]))

    def forward(self, x: Tensor, w: Tensor | None = None, window: tuple[slice, slice] | None = None) -> Tensor:
        """Features [N, out, S, S]; `window`: the rows and columns that x is of, when it is not all of the features."""
        if self.style is not None:
            x = self.style(x, w)
        if self.depthwise is not None:
            x = self.depthwise(x)
        noise = self.get_buffer("noise")
        return F.leaky_relu_(self.conv(x).add_(noise if window is None else noise[window]), 0.2)


class _Layer(nn.Module):
    """Upsampling by an inverse wavelet transform, and two convolutions."""

    def __init__(self, tables: Mapping[str, Floats], number: int) -> None:
        super().__init__()
        self.up = _Upsampling(tables, number)
        self.conv1 = _Convolution(tables, f"layers.{number}.conv1", styled=False)
        # The last layer's features go to the image, the others' into the next transform.
        self.conv2 = _Convolution(tables, f"layers.{number}.conv2", bands=number + 1 < len(RESOLUTIONS))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = inverse_haar(self.up(x, w[:, 0], w[:, 1]))
        return self.conv2(self.conv1(x), w[:, 2])


class _Upsampling(nn.Module):
    """Scales the bands before the transform, by its own style and by that of the convolution behind it.

    One scale for each upsampled channel is the same for each of its four bands: so it costs nothing here.
    """

    def __init__(self, tables: Mapping[str, Floats], number: int) -> None:
        super().__init__()
        self.own = _Style(tables, f"layers.{number}.up", bands=True)
        self.next = _Style(tables, f"layers.{number}.conv1")

    def forward(self, x: Tensor, w: Tensor, w_next: Tensor) -> Tensor:
        scale = self.own.affine(w) * self.next.affine(w_next).repeat(1, 4)
        return x * scale[:, :, None, None].to(x.dtype)


class Conv2d(nn.Module):
    """A frozen convolution that keeps the size of its input.

    On a CPU it calls oneDNN by name: with one thread PyTorch takes another, slower routine for 1 × 1 kernels.
    """

    def __init__(self, weight: Floats, bias: Floats | None, groups: int = 1) -> None:
        super().__init__()
        self.groups, self.padding = groups, weight.shape[-1] // 2
        self.register_buffer("weight", torch.from_numpy(np.array(weight)))
        self.register_buffer("bias", None if bias is None else torch.from_numpy(np.array(bias)))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, pad = self.get_buffer("weight"), getattr(self, "bias", None), [self.padding] * 2
        if x.is_cpu and torch.backends.mkldnn.is_available():
            convolve: Any = torch.mkldnn_convolution  # type: ignore[attr-defined]
            return convolve(x, weight, bias, pad, [1, 1], [1, 1], self.groups)
        return F.conv2d(x, weight, bias, padding=self.padding, groups=self.groups)


class Linear(nn.Module):
    """A frozen affine map, float32."""

    def __init__(self, weight: Floats, bias: Floats) -> None:
        super().__init__()
        self.register_buffer("weight", torch.from_numpy(np.array(weight)))
        self.register_buffer("bias", torch.from_numpy(np.array(bias)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.get_buffer("weight"), self.get_buffer("bias"))


def band_order(channels: int) -> npt.NDArray[np.int64]:
    """Which published channel each of ours is: theirs are C means, then three details for each of C."""
    means, details = np.split(np.arange(channels), [channels // 4])
    return np.concatenate([means, details.reshape(-1, 3).T.reshape(-1)])
