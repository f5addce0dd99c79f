"""Backbones as ONNX files, compared with PyTorch before they are kept.

Input `images`: float32 [N, 3, S, S], RGB in [-1, 1]; output `embeddings`: float32 [N, D], not normalized; N is free.
The file's metadata say what the faces have to look like (`facelib.image_spec`, JSON).

Shape legend: N images, S side in pixels, D embedding size.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facelib.data.storage import atomic_file
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from torch import nn

INPUT, OUTPUT, IMAGE_SPEC = "images", "embeddings", "facelib.image_spec"
OPSET = 17


class ExportError(RuntimeError):
    """The exported network does not compute what the original does."""


@dataclass(frozen=True)
class OnnxCheck:
    """The comparison with PyTorch: batch sizes tried, and the largest difference as a share of the largest value."""

    batches: tuple[int, ...]
    difference: float


def export_onnx(
    backbone: nn.Module,
    path: str | os.PathLike[str],
    image_spec: Mapping[str, Any] | None = None,
    tolerance: float = 1e-4,
    batches: Sequence[int] = (1, 7),
) -> OnnxCheck:
    """Write `backbone` as an ONNX file and compare it with PyTorch on random faces. The backbone is left as it is.

    Args:
        path: file to write; it appears complete and compared, or not at all.
        image_spec: of the faces the network was trained on; goes into the file's metadata.
        tolerance: largest difference allowed, as a share of the largest embedding value.
        batches: numbers of images tried.

    Raises:
        ExportError: onnxruntime's embeddings differ by more than that.
    """
    require_extra("export", "an ONNX export", "onnx", "onnxruntime")

    import onnx
    import torch

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    network = copy.deepcopy(backbone).cpu().float().eval()
    size = int(getattr(network, "image_size", 112))
    with atomic_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The tracer notes the check of the input's shape, which is fixed but for N.
        free = {0: "batch"}
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, size, size),),
            file.name,
            dynamo=False,  # The other exporter needs one more package and gives the same graph.
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: free, OUTPUT: free},
            opset_version=OPSET,
        )
        model = onnx.load(file.name)
        onnx.helper.set_model_props(model, {IMAGE_SPEC: json.dumps(dict(image_spec or {}), sort_keys=True)})
        onnx.checker.check_model(model)
        onnx.save(model, file.name)
        check = _compare(network, OnnxEmbedder(file.name), size, batches)
        if not check.difference <= tolerance:
            raise ExportError(
                f"{path}: embeddings differ from PyTorch's by {check.difference:.2g} of their largest value, more than "
                f"{tolerance:g}; nothing was written"
            )
    return check


class OnnxEmbedder:
    """An exported backbone in onnxruntime.

    Args:
        path: file of `export_onnx`.
        threads: of onnxruntime; 0 leaves it to onnxruntime.

    Attributes:
        image_spec: what its faces look like, as far as the file says it.
        size: side of the faces in pixels.
    """

    def __init__(self, path: str | os.PathLike[str], threads: int = 0) -> None:
        require_extra("export", "an ONNX model", "onnxruntime")

        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(os.fspath(path), options, onnxruntime.get_available_providers())
        self.image_spec: dict[str, Any] = json.loads(
            self._session.get_modelmeta().custom_metadata_map.get(IMAGE_SPEC, "{}")
        )
        self.size = int(self._session.get_inputs()[0].shape[2])

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embeddings [N, D] of network inputs [N, 3, S, S] in [-1, 1]."""
        embeddings: NDArray[np.float32] = self._session.run([OUTPUT], {INPUT: images})[0]
        return embeddings

    def embed(self, faces: NDArray[np.uint8], flip: bool = True) -> NDArray[np.float32]:
        """Embeddings [N, D] of aligned faces, uint8 RGB [N, S, S, 3], those of their mirror images added if `flip`.

        Raises:
            ValueError: faces of another size or type.
        """
        expected = (self.size, self.size, 3)
        if faces.ndim != 4 or faces.shape[1:] != expected or faces.dtype != np.uint8:
            raise ValueError(f"faces must be uint8 [N, {self.size}, {self.size}, 3], got {faces.dtype} {faces.shape}")
        images = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), dtype=np.float32) * np.float32(2 / 255) - 1
        embeddings = self.run(images)
        return embeddings + self.run(np.ascontiguousarray(images[..., ::-1])) if flip else embeddings


def _compare(network: nn.Module, exported: OnnxEmbedder, size: int, batches: Sequence[int]) -> OnnxCheck:
    import torch

    worst = 0.0
    rng = np.random.default_rng(0)
    for batch in batches:
        images = rng.uniform(-1, 1, (batch, 3, size, size)).astype(np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        difference = np.abs(exported.run(images) - expected).max() / max(float(np.abs(expected).max()), 1e-12)
        worst = max(worst, float(difference))
    return OnnxCheck(tuple(batches), worst)
