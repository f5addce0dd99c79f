"""MTCNN's three networks (Zhang et al., SPL 2016) in PyTorch, on the weights inside the PyPI package `mtcnn`.

The package's files are read, its code (TensorFlow) is not imported: each `.lz4` is a list of arrays in joblib's format,
kernel, bias and PReLU slopes layer by layer, in TensorFlow's order of axes [height, width, in, out].

Shapes: N images or patches, B boxes; pixels float32 [N, 3, H, W], (value - 127.5) / 128.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from facelib.utils.optional import require_extra
from facelib.utils.safe_pickle import DamagedPickleError, Name, UnsafePickleError, read_pickle

Arrays = list[npt.NDArray[np.float32]]
_MAX_VALUES = 1 << 22
# Rows of a matrix product: with another number of rows its last bits differ, so that a face's landmarks would depend on
# how many other faces there are. Patches go through the networks in passes of this many.
_PATCHES = 32


class StageNetwork:
    """Convolutions with PReLU and pooling, then dense layers: the frame of all three networks.

    Args:
        arrays: kernel, bias and slopes of each layer, then kernel and bias of each output.
        pools: (kernel, stride, whether a part of a window at the end counts) after each convolution; None for none.
        outputs: number of outputs; the last is a softmax over (not a face, face).
        device: where the network runs.
    """

    def __init__(
        self, arrays: Arrays, pools: list[tuple[int, int, bool] | None], outputs: int, device: torch.device
    ) -> None:
        layers, heads = arrays[: -2 * outputs], arrays[-2 * outputs :]
        if len(layers) % 3:
            raise ValueError(f"{len(arrays)} arrays, expected three a layer and two an output")
        tensors = [torch.from_numpy(array).to(device) for array in layers]
        self._layers = [
            (_conv_weight(weight), bias, slopes.flatten())
            for weight, bias, slopes in zip(tensors[::3], tensors[1::3], tensors[2::3])
        ]
        tensors = [torch.from_numpy(array).to(device) for array in heads]
        self._heads = [(_conv_weight(weight), bias) for weight, bias in zip(tensors[::2], tensors[1::2])]
        self._pools = pools

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """Outputs of images [N, 3, H, W]: [N, S, ...] each, the scores of a face [N, ...] last.

        Fully convolutional networks (PNet) give maps [N, S, H', W'] and [N, H', W'].
        """
        x = pixels.contiguous(memory_format=torch.channels_last)  # pooling is ten times as fast on a CPU
        for number, (weight, bias, slopes) in enumerate(self._layers):
            if weight.ndim == 4:
                x = F.conv2d(x, weight, bias)
            else:
                x = F.linear(x if x.ndim == 2 else x.permute(0, 3, 2, 1).flatten(1), weight, bias)
            x = F.prelu(x, slopes)
            if number < len(self._pools) and (pool := self._pools[number]):
                kernel, stride, ceil = pool
                x = F.max_pool2d(x, kernel, stride, ceil_mode=ceil)
        apply = F.conv2d if x.ndim == 4 else F.linear
        results = [apply(x, weight, bias) for weight, bias in self._heads]
        results[-1] = results[-1].softmax(1)[:, 1]
        return results

    def run_patches(self, patches: Tensor) -> list[npt.NDArray[np.float32]]:
        """Outputs of patches [B, 3, S, S], each as NumPy [B, ...]; none depends on the other patches."""
        results = []
        for start in range(0, len(patches), _PATCHES):
            part = patches[start : start + _PATCHES]
            filled = torch.zeros(_PATCHES, *part.shape[1:], device=part.device)
            filled[: len(part)] = part
            results.append([output[: len(part)].cpu().numpy() for output in self(filled)])
        return [np.concatenate(outputs) for outputs in zip(*results)]


def load_networks(device: torch.device) -> tuple[StageNetwork, StageNetwork, StageNetwork]:
    """PNet, RNet and ONet.

    Raises:
        ImportError: the package `mtcnn` or `lz4` is missing.
        ValueError: a file of weights is damaged or of another layout.
    """
    folder = weights_folder()
    files = {name: folder / f"{name}.lz4" for name in ("pnet", "rnet", "onet")}
    pools: dict[str, list[tuple[int, int, bool] | None]] = {
        "pnet": [(2, 2, True), None, None],
        "rnet": [(3, 2, True), (3, 2, False), None],
        "onet": [(3, 2, True), (3, 2, False), (2, 2, True), None],
    }
    networks = [
        StageNetwork(read_weights(files[name]), pools[name], 3 if name == "onet" else 2, device) for name in pools
    ]
    return networks[0], networks[1], networks[2]


def weights_folder() -> Path:
    """Where the package `mtcnn` keeps its weights; the package is not imported.

    Raises:
        ImportError: the package or `lz4` is missing.
    """
    require_extra("align", "the mtcnn detector", "mtcnn", "lz4")
    spec = importlib.util.find_spec("mtcnn")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "assets" / "weights"


def read_weights(path: str | Path) -> Arrays:
    """The arrays of an `.lz4` file of the package, in order; nothing in it is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or not a list of float32 arrays.
    """
    import lz4.frame

    path = Path(path)
    try:
        content = lz4.frame.decompress(path.read_bytes())
        values = read_pickle(content, _NAMES.get_name)
    except (RuntimeError, UnsafePickleError, DamagedPickleError) as error:
        raise ValueError(f"{path}: not the weights of MTCNN ({error}); reinstall the package mtcnn") from error
    if not isinstance(values, list) or not all(isinstance(value, _InlineArray) for value in values):
        raise ValueError(f"{path}: not the weights of MTCNN (a list of arrays); reinstall the package mtcnn")
    return [value.values for value in values]


def resize_area(pixels: Tensor, height: int, width: int) -> Tensor:
    """Images [N, 3, H, W] resized so that each pixel is the mean of the area that it covers, TensorFlow's `AREA`."""
    down = _area_weights(pixels.shape[2], height).to(pixels.device)
    right = _area_weights(pixels.shape[3], width).to(pixels.device)
    return down @ pixels @ right.T


def crop_and_resize(pixels: Tensor, boxes: npt.NDArray[np.float64], side: int) -> Tensor:
    """Patches [B, 3, side, side] of boxes (image, left, top, right, bottom), bilinear; 0 outside of the image.

    The first and last sample lie on the box's edges, as in TensorFlow's `crop_and_resize`, whose coordinates run from 0
    at the first pixel to 1 at the last.
    """
    height, width = pixels.shape[2:]
    images = torch.from_numpy(boxes[:, 0].astype(np.int64)).to(pixels.device)[:, None, None]
    top, top_weight, top_inside = _samples(boxes[:, 2], boxes[:, 4], height, side, pixels.device)
    left, left_weight, left_inside = _samples(boxes[:, 1], boxes[:, 3], width, side, pixels.device)
    rows, columns = top[:, :, None], left[:, None, :]
    below, beside = (rows + 1).clamp(max=height - 1), (columns + 1).clamp(max=width - 1)
    channels_last = pixels.permute(0, 2, 3, 1)
    horizontal, vertical = left_weight[:, None, :, None], top_weight[:, :, None, None]
    first, second = (
        torch.lerp(channels_last[images, at, columns], channels_last[images, at, beside], horizontal)
        for at in (rows, below)
    )
    inside = (top_inside[:, :, None] & left_inside[:, None, :])[..., None]
    patches = torch.where(inside, torch.lerp(first, second, vertical), 0.0)
    return patches.permute(0, 3, 1, 2)


def _samples(
    low: npt.NDArray[np.float64], high: npt.NDArray[np.float64], size: int, side: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Lower pixels int64 [B, side], weights of the next pixels, and whether the positions are inside of the image."""
    start, end = ((value / size).astype(np.float32) for value in (low, high))
    step = (end - start) * np.float32(size - 1) / np.float32(side - 1)
    positions = (start * np.float32(size - 1))[:, None] + np.arange(side, dtype=np.float32) * step[:, None]
    inside = (positions >= 0) & (positions <= size - 1)
    lower = np.clip(np.floor(positions), 0, size - 1)
    tensors = (torch.from_numpy(array).to(device) for array in (lower.astype(np.int64), positions - lower, inside))
    lower_pixels, weights, flags = tensors
    return lower_pixels, weights, flags


def _area_weights(size: int, target: int) -> Tensor:
    """Share of each of `size` pixels in each of `target` pixels, float32 [target, size]."""
    scale = size / target
    low = np.arange(target)[:, None] * scale
    pixels = np.arange(size)[None]
    covered = np.minimum(pixels + 1, low + scale) - np.maximum(pixels, low)
    return torch.from_numpy((np.clip(covered, 0, None) / scale).astype(np.float32))


def _conv_weight(weight: Tensor) -> Tensor:
    """A kernel [height, width, in, out] as [out, in, height, width], or [in, out] as [out, in]."""
    if weight.ndim == 4:
        return weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return weight.T.contiguous()


class _InlineArray:
    """An array of joblib: its state says type and shape, its values follow in the stream."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.values: npt.NDArray[np.float32] = np.zeros(0, np.float32)

    def set_state(self, state: Any) -> None:
        shape = state.get("shape") if isinstance(state, dict) else None
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise UnsafePickleError("it describes an array without a shape")
        if not isinstance(state.get("dtype"), _Float32) or state.get("order") != "C" or np.prod(shape) > _MAX_VALUES:
            raise UnsafePickleError(f"it has an array {shape} that is not float32, row by row and small")
        self.shape = shape

    def read_content(self, stream: BinaryIO) -> None:
        padding = stream.read(1)
        stream.read(padding[0] if padding else 0)
        content = stream.read(4 * int(np.prod(self.shape)))
        if len(content) != 4 * np.prod(self.shape):
            raise DamagedPickleError("truncated within an array")
        self.values = np.frombuffer(content, "<f4").reshape(self.shape).astype(np.float32)


class _Float32:
    """NumPy's little-endian float32."""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] != "<":
            raise UnsafePickleError("it has an array that is not little-endian")


class _Names:
    """What the names in the files stand for."""

    def __init__(self) -> None:
        self._names = {
            ("joblib.numpy_pickle", "NumpyArrayWrapper"): Name("an array of joblib", new=lambda _: _InlineArray()),
            ("numpy", "ndarray"): Name("numpy.ndarray"),
            ("numpy", "dtype"): Name("numpy.dtype", call=self._dtype),
        }

    def get_name(self, module: str, name: str) -> Name | None:
        return self._names.get((module, name))

    @staticmethod
    def _dtype(arguments: tuple[Any, ...]) -> _Float32:
        if arguments[:1] != ("f4",):
            raise UnsafePickleError("it has an array that is not float32")
        return _Float32()


_NAMES = _Names()
