"""DiscoFaceGAN's mapping and synthesis networks (Deng et al., CVPR 2020, on StyleGAN) in PyTorch, inference only.

Same arithmetic as the published graph, in another order where that is exact or within float32's rounding:
- every step up in resolution is one transposed convolution. Below 128 pixels the network was trained with nearest
  upscaling and a convolution, which is the transposed convolution of the kernel flipped in both axes; from 128 on with
  the unflipped kernel. Mixing these up gives wrong images and no error.
- stored noise and bias become one table a layer; instance norm and style one multiplication and one addition.
The blur stays apart: folded into the kernel it would differ at the borders.

Shapes: N batch, W width of a style vector, L styled layers, R resolution, C channels; tensors are [N, C, R, R],
arrays of images [N, R, R, C].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from facelib.synthesis.discofacegan.network_pickle import NetworkTables
from facelib.synthesis.discofacegan.topology import COEFFICIENT_SIZES, COEFFICIENTS, TRUNCATED_LAYERS, Topology
from facelib.utils.devices import exact_float32, resolve_device

Floats = npt.NDArray[np.float32]
_LEAK, _NORM_EPSILON = 0.2, 1e-8


class DiscoFaceGAN:
    """The generator Gs: face-model coefficients to images.

    Args:
        networks: tables of Gs, from `read_network_pickle`.
        average_w_id: the mean style vector of identities, [W] or [L, W] (the rows of `*-average_w_id.txt`).
        batch_size: images in one pass. The last pass is filled up to it, so that an image does not depend on how many
            others are asked for; give few at a time only with a small batch size.
        bfloat16: convolve in bfloat16: about twice as fast on CPUs that have it, not equal to float32 byte for byte.
        channels_last: memory format of the feature maps: about 1.5 times as fast, up to 4e-5 from the original's images
            before rounding where the default is within 3e-5.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`.

    Raises:
        ValueError: average_w_id has the wrong shape or is not finite, or a setting is out of range.
    """

    def __init__(
        self,
        networks: NetworkTables,
        average_w_id: npt.ArrayLike,
        *,
        batch_size: int = 8,
        bfloat16: bool = False,
        channels_last: bool = False,
        device: str = "auto",
    ) -> None:
        if not 1 <= batch_size <= 4096:
            raise ValueError(f"batch_size is {batch_size}, expected 1 to 4096")
        self.topology = networks.topology
        average = check_average(average_w_id, self.topology)
        self.batch_size = batch_size
        self.device = resolve_device(device)
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32
        self._lod = float(networks.variables["G_synthesis/lod"])
        self._average = self._tensor(np.broadcast_to(average, (self.topology.layers, self.topology.dlatent_size)))
        self._mapping = [
            (self._tensor(weight), self._tensor(bias)) for weight, bias in _mapping_tables(networks, self.topology)
        ]
        layers, to_rgb = _synthesis_tables(networks, self.topology)
        self._layers = [{name: self._tensor(table) for name, table in tables.items()} for tables in layers]
        for tables in self._layers[1:]:
            tables["kernel"] = tables["kernel"].to(self._dtype)
        self._to_rgb = {log2: (self._tensor(kernel), self._tensor(bias)) for log2, (kernel, bias) in to_rgb.items()}

    def synthesize(self, coefficients: npt.ArrayLike, truncation: float = 0.7) -> npt.NDArray[np.uint8]:
        """RGB images uint8 [N, R, R, 3] of coefficients [N, 286].

        Args:
            coefficients: identity 160 | expression 64 | rotation 3 | illumination 27 | noise 32.
            truncation: how much of an identity's own style is kept in the first 8 layers, 1 for all, 0 for the average
                identity; the published images have 0.7. Expression, light and pose are not truncated.

        Raises:
            ValueError: wrong shape, values that are not finite, or truncation outside 0 to 1.
        """
        if not 0 <= truncation <= 1:
            raise ValueError(f"truncation is {truncation}, expected 0 to 1")
        batch = _check(coefficients, "coefficients", (COEFFICIENTS,))
        return self._run(lambda rows: self._images(rows, truncation), batch)

    synthesise = synthesize  # the name that scripts written before the first release use

    def map(self, coefficients: npt.ArrayLike) -> Floats:
        """Style vectors float32 [N, W] of coefficients [N, 286], before truncation.

        Raises:
            ValueError: wrong shape, or values that are not finite.
        """
        return self._run(self._map, _check(coefficients, "coefficients", (COEFFICIENTS,)))

    def truncate(self, coefficients: npt.ArrayLike, truncation: float = 0.7) -> Floats:
        """Style vectors float32 [N, L, W] of coefficients [N, 286], truncated as in `synthesize`."""
        batch = _check(coefficients, "coefficients", (COEFFICIENTS,))
        return self._run(lambda rows: self._truncate(rows, truncation), batch)

    def synthesize_raw(self, styles: npt.ArrayLike, lod: float | None = None) -> Floats:
        """Images float32 [N, R, R, 3], about -1 to 1 and not clipped, of style vectors [N, L, W].

        Args:
            styles: one style vector for each layer.
            lod: level of detail: 0 is full resolution, 1 half, and between them a blend, blown up to R pixels. None
                takes the file's own, 0 once training is done.

        Raises:
            ValueError: wrong shape, values that are not finite, or lod out of range.
        """
        level = self._check_lod(self._lod if lod is None else float(lod))
        batch = _check(styles, "styles", (self.topology.layers, self.topology.dlatent_size))
        return self._run(lambda rows: self._synthesize(rows, level).permute(0, 2, 3, 1), batch)

    def _check_lod(self, lod: float) -> float:
        most = self.topology.resolution_log2 - 2
        if not 0 <= lod <= most:
            raise ValueError(f"lod is {lod}, expected 0 to {most} at {self.topology.resolution} pixels")
        return lod

    def _tensor(self, array: npt.NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(np.array(array, np.float32)).to(self.device)
        return tensor.contiguous(memory_format=self._format) if tensor.ndim == 4 else tensor

    @torch.inference_mode()
    def _run(self, function: Callable[[Tensor], Tensor], rows: Floats) -> Any:
        """`function` on passes of exactly batch_size rows."""
        results = []
        for start in range(0, len(rows), self.batch_size):
            batch = rows[start : start + self.batch_size]
            filled = np.concatenate([batch, np.repeat(batch[:1], self.batch_size - len(batch), axis=0)])
            with exact_float32():
                results.append(function(self._tensor(filled)).cpu().numpy()[: len(batch)])
        if not results:
            raise ValueError("no rows: give one or more")
        return np.concatenate(results)

    def _images(self, coefficients: Tensor, truncation: float) -> Tensor:
        raw = self._synthesize(self._truncate(coefficients, truncation), self._check_lod(self._lod))
        pixels = ((raw + 1) * 127.5).clamp(0, 255).to(torch.uint8)  # cut off, not rounded
        return pixels.permute(0, 2, 3, 1)

    def _map(self, coefficients: Tensor) -> Tensor:
        x = coefficients
        for weight, bias in self._mapping:
            x = F.leaky_relu(F.linear(x, weight, bias), _LEAK)
        return x

    def _truncate(self, coefficients: Tensor, truncation: float) -> Tensor:
        """The identity's part of the style is drawn to the average; the rest is left."""
        rest = COEFFICIENTS - COEFFICIENT_SIZES["identity"]
        identity = F.pad(coefficients[:, :-rest], (0, rest))
        styles, identity_styles = self._map(torch.cat([coefficients, identity]))[:, None].chunk(2)
        truncated = styles + (self._average[None, :TRUNCATED_LAYERS] - identity_styles) * (1 - truncation)
        plain = styles.expand(-1, max(0, self.topology.layers - TRUNCATED_LAYERS), -1)
        return torch.cat([truncated, plain], dim=1)

    def _synthesize(self, styles: Tensor, lod: float) -> Tensor:
        level = int(lod)
        top, blend = self.topology.resolution_log2 - level, lod - level
        x = before = self._layers[0]["start"].expand(len(styles), -1, -1, -1).contiguous(memory_format=self._format)
        for layer, tables in enumerate(self._layers[: 2 * top - 2]):
            if layer > 0:
                if layer % 2 == 0:
                    before = x
                    x = F.conv_transpose2d(x.to(self._dtype), tables["kernel"], stride=2, padding=1).float()
                    x = F.conv2d(x, tables["blur"], padding=1, groups=x.shape[1])
                else:
                    x = F.conv2d(x.to(self._dtype), tables["kernel"], padding=1).float()
                x = F.leaky_relu(x + tables["noise_bias"], _LEAK)
            x = _normalize(x, F.linear(styles[:, layer], tables["style"], tables["style_bias"]))
        image = self._rgb(x, top)
        if blend:
            image = torch.lerp(image, _enlarge(self._rgb(before, top - 1), 2), blend)
        return _enlarge(image, 2**level)

    def _rgb(self, x: Tensor, log2: int) -> Tensor:
        kernel, bias = self._to_rgb[log2]
        return F.conv2d(x, kernel, bias)


def check_average(average_w_id: npt.ArrayLike, topology: Topology) -> Floats:
    """average_w_id as float32. Raises ValueError: wrong shape, or values that are not finite."""
    average = np.asarray(average_w_id, np.float32)
    width, layers = topology.dlatent_size, topology.layers
    if average.shape not in ((width,), (1, width), (layers, width)):
        raise ValueError(f"average_w_id has shape {average.shape}, expected ({width},) or ({layers}, {width})")
    if not np.isfinite(average).all():
        raise ValueError("average_w_id holds values that are not finite")
    return average


def _check(values: npt.ArrayLike, name: str, shape: tuple[int, ...]) -> Floats:
    array = np.asarray(values, np.float32)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected [N, {', '.join(map(str, shape))}]")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    return array


def _normalize(x: Tensor, style: Tensor) -> Tensor:
    """Instance norm, then style: scale (its 1 is in the table) and shift."""
    scale, shift = style[:, :, None, None].chunk(2, dim=1)
    x = x - x.mean((2, 3), keepdim=True)
    variance = x.square().mean((2, 3), keepdim=True)
    return torch.addcmul(shift, x, torch.rsqrt(variance + _NORM_EPSILON) * scale)


def _enlarge(image: Tensor, factor: int) -> Tensor:
    return image if factor == 1 else F.interpolate(image, scale_factor=factor, mode="nearest")


def _mapping_tables(networks: NetworkTables, topology: Topology) -> list[tuple[Floats, Floats]]:
    """Weights [out, in] and biases of the dense layers, with their gains."""
    rate, layers = topology.mapping_lrmul, []
    for layer in range(topology.mapping_layers):
        weight, bias = (networks.variables[f"G_mapping/Dense{layer}/{part}"] for part in ("weight", "bias"))
        gain = np.float32(np.sqrt(2 / weight.shape[0]) * rate)
        layers.append(((weight * gain).T, bias * np.float32(rate)))
    return layers


def _synthesis_tables(
    networks: NetworkTables, topology: Topology
) -> tuple[list[dict[str, Floats]], dict[int, tuple[Floats, Floats]]]:
    """Tables of each styled layer, and (kernel, bias) to RGB by log2 of the resolution."""
    variables, layers, to_rgb = networks.variables, [], {}
    for layer, name in enumerate(topology.layer_names()):
        prefix, log2 = f"G_synthesis/{name}/", layer // 2 + 2
        noise = variables[f"G_synthesis/noise{layer}"][:, 0] * variables[prefix + "Noise/weight"][:, None, None]
        noise_bias = (noise + variables[prefix + "bias"][:, None, None])[None]
        style_bias = variables[prefix + "StyleMod/bias"].copy()
        style_bias[: len(style_bias) // 2] += 1
        gain = np.float32(1 / np.sqrt(topology.dlatent_size))
        tables = {"style": (variables[prefix + "StyleMod/weight"] * gain).T, "style_bias": style_bias}
        if layer == 0:
            start = variables[prefix + "const"] + noise_bias
            tables["start"] = np.maximum(start, start * np.float32(_LEAK))
        else:
            weight = variables[prefix + "weight"]
            kernel = weight * np.float32(np.sqrt(2 / np.prod(weight.shape[:3])))
            if layer % 2 == 0:
                kernel = up_kernel(kernel, topology.fused(log2))
                tables["blur"] = np.tile(_blur_kernel(), (kernel.shape[1], 1, 1, 1))
            else:
                kernel = kernel.transpose(3, 2, 0, 1)
            tables["noise_bias"] = noise_bias
            tables["kernel"] = kernel
        layers.append(tables)
        if layer % 2:
            prefix = f"G_synthesis/ToRGB_lod{topology.resolution_log2 - log2}/"
            weight = variables[prefix + "weight"]
            scaled = weight * np.float32(1 / np.sqrt(weight.shape[2]))
            to_rgb[log2] = scaled.transpose(3, 2, 0, 1), variables[prefix + "bias"]
    return layers, to_rgb


def up_kernel(kernel: Floats, fused: bool) -> Floats:
    """[3, 3, in, out] of a step up -> [in, out, 4, 4] of the transposed convolution with stride 2 that equals it."""
    if not fused:
        kernel = kernel[::-1, ::-1]
    padded = np.pad(kernel.transpose(2, 3, 0, 1), [(0, 0), (0, 0), (1, 1), (1, 1)])
    return padded[..., 1:, 1:] + padded[..., :-1, 1:] + padded[..., 1:, :-1] + padded[..., :-1, :-1]


def _blur_kernel() -> Floats:
    return (np.outer([1, 2, 1], [1, 2, 1]) / 16).astype(np.float32)[None, None]
