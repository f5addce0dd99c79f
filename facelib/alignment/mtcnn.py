"""MTCNN (Zhang et al., SPL 2016, arXiv 1604.02878), the detector that USynthFace used, in PyTorch.

Three networks in a row: PNet slides over an image pyramid and proposes boxes, RNet and ONet refine them, ONet adds
landmarks. Weights and box arithmetic are those of the PyPI package `mtcnn`, with two differences. The package's pyramid
has as many levels as `min_face_size=20` needs whatever the setting is, so that for larger faces on small images its
last levels fall below PNet's 12 pixels, which it reports as "no faces" for the whole batch; here the pyramid stops at
12 pixels. And the package orders equal scores by the batch, so that a face's landmarks can move by a pixel with its
neighbors; here ties are ordered by position.

Shapes: N images of one size; B proposals as rows (image, left, top, right, bottom, score[, 5 x, 5 y]).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facelib.alignment.boxes import square, suppress_all
from facelib.alignment.detector import Detections, check_range, detect_by_shape, register_detector
from facelib.utils.devices import check_device, resolve_device
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from torch import Tensor

    from facelib.alignment.mtcnn_networks import StageNetwork

Rows = NDArray[np.float64]
_CELL, _STRIDE = 12, 2  # PNet's field of view in pixels (the smallest face it sees), and the step between two of them
_BATCH_PIXELS = 20 * 512 * 512  # bounds the memory of the pyramid's first level
_PNET_NMS, _RNET_NMS, _ONET_NMS = (0.5, 0.7), 0.7, 0.7


@register_detector("mtcnn")
class MTCNN:
    """MTCNN detector: slower than RetinaFace, the one USynthFace used.

    The networks are loaded at the first image. On a CPU the result for an image does not depend on the other images of
    the call.

    Args:
        score_threshold: faces the last network scores at or below it are not returned.
        proposal_thresholds: the same for the first two networks.
        min_face_size: smallest face looked for, in pixels; larger is faster.
        scale_factor: ratio of neighboring pyramid levels.
        max_size: images whose longer side exceeds it (pixels) are shrunk to it for detection.
        batch_size: most images in one pass; fewer when they are large.
        device: `auto` (CUDA when PyTorch sees it, else CPU), `cpu` or `cuda`.

    Raises:
        ValueError: a setting out of range.
        ImportError: the packages mtcnn (its weights) or lz4 are missing.
    """

    def __init__(
        self,
        score_threshold: float = 0.8,
        proposal_thresholds: tuple[float, float] = (0.6, 0.7),
        min_face_size: int = 20,
        scale_factor: float = 0.709,
        max_size: int = 1024,
        batch_size: int = 20,
        device: str = "auto",
    ) -> None:
        check_range("score_threshold", score_threshold, 0.01, 1)
        for threshold in proposal_thresholds:
            check_range("proposal_thresholds", threshold, 0.01, 1)
        check_range("min_face_size", min_face_size, _CELL, 8192)
        check_range("scale_factor", scale_factor, 0.1, 0.95)
        check_range("max_size", max_size, 32, 8192)
        check_range("batch_size", batch_size, 1, 4096)
        check_device(device)
        self.score_threshold = score_threshold
        self.proposal_thresholds = tuple(proposal_thresholds)
        self.min_face_size = min_face_size
        self.scale_factor = scale_factor
        self.max_size = max_size
        self.batch_size = batch_size
        self.device = device
        require_extra("align", "the mtcnn detector", "mtcnn", "lz4")
        self._networks: tuple[StageNetwork, StageNetwork, StageNetwork] | None = None

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces in RGB images, uint8 [H, W, 3] each; images of one size are run together.

        Raises:
            ValueError: an entry is not an uint8 [H, W, 3] array, or CUDA is wanted where PyTorch sees none.
        """
        if self._networks is None:
            from facelib.alignment.mtcnn_networks import load_networks

            self._device = resolve_device(self.device)
            self._networks = load_networks(self._device)
        return detect_by_shape(images, self.max_size, self._images_per_call, self._detect_stack)

    def _images_per_call(self, height: int, width: int) -> int:
        return max(1, min(self.batch_size, _BATCH_PIXELS // (height * width)))

    def _detect_stack(self, images: list[NDArray[np.uint8]]) -> list[Detections]:
        """Detect in images of one size."""
        import torch

        assert self._networks is not None
        pnet, rnet, onet = self._networks
        stack = torch.from_numpy(np.stack(images)).to(self._device).permute(0, 3, 1, 2)
        pixels = (stack.float() - 127.5) / 128
        rows = self._propose(pnet, pixels)
        if len(rows):
            rows = self._refine(rnet, pixels, rows)
        if len(rows):
            rows = self._locate(onet, pixels, rows)
        return [_detections(rows[rows[:, 0] == index]) for index in range(len(images))]

    def _propose(self, pnet: StageNetwork, pixels: Tensor) -> Rows:
        """PNet over the pyramid: squared proposals [B, 6]."""
        from facelib.alignment.mtcnn_networks import resize_area

        height, width = pixels.shape[2:]
        levels = []
        for scale in pyramid_scales(height, width, self.min_face_size, self.scale_factor):
            level = resize_area(pixels, int(height * scale + 1e-6), int(width * scale + 1e-6))
            # On a CPU one image at a time: the convolutions' last bits depend on the number of images.
            batches = level.split(1 if level.device.type == "cpu" else len(level))
            maps = [[output.cpu().numpy() for output in pnet(batch)] for batch in batches]
            offsets, scores = (np.concatenate(outputs) for outputs in zip(*maps))
            rows = _proposals(offsets, scores, self.proposal_thresholds[0])
            rows[:, 1:5] /= scale
            levels.append(_suppress(rows, _PNET_NMS[0]))
        rows = _suppress(np.concatenate(levels), _PNET_NMS[1]) if levels else np.empty((0, 6))
        return _squared(rows)

    def _refine(self, rnet: StageNetwork, pixels: Tensor, rows: Rows) -> Rows:
        """RNet on the proposals' 24x24 patches: squared boxes [B, 6]."""
        from facelib.alignment.mtcnn_networks import crop_and_resize

        offsets, scores = rnet.run_patches(crop_and_resize(pixels, rows, 24))
        rows = _adjusted(rows, offsets, scores)
        return _squared(_suppress(rows[rows[:, 5] > self.proposal_thresholds[1]], _RNET_NMS))

    def _locate(self, onet: StageNetwork, pixels: Tensor, rows: Rows) -> Rows:
        """ONet on the boxes' 48x48 patches: boxes with landmarks [B, 16]."""
        from facelib.alignment.mtcnn_networks import crop_and_resize

        offsets, relative, scores = onet.run_patches(crop_and_resize(pixels, rows, 48))
        # Landmarks come as fractions of the box before its last adjustment.
        side = rows[:, 3:5] - rows[:, 1:3] + 1
        x = rows[:, 1:2] + relative[:, :5] * side[:, :1] - 1
        y = rows[:, 2:3] + relative[:, 5:] * side[:, 1:] - 1
        rows = np.concatenate([_adjusted(rows, offsets, scores), x, y], axis=1)
        return _suppress(rows[rows[:, 5] > self.score_threshold], _ONET_NMS, relative_to="min")


def pyramid_scales(height: int, width: int, min_face_size: int, scale_factor: float) -> list[float]:
    """Return the scales of the image pyramid, largest first: none brings the shorter side below PNet's 12 pixels.

    Empty for an image smaller than the smallest face looked for.
    """
    scales = []
    scale = _CELL / min_face_size
    while int(min(height, width) * scale + 1e-6) >= _CELL:
        scales.append(scale)
        scale *= scale_factor
    return scales


def _proposals(offsets: NDArray[np.float32], scores: NDArray[np.float32], threshold: float) -> Rows:
    """Cells of PNet's maps, offsets [N, 4, H', W'] and scores [N, H', W'], above the threshold: rows [B, 6]."""
    image, y, x = np.nonzero(scores > threshold)
    corner = np.stack([x, y], axis=1) * _STRIDE + 1
    boxes = np.concatenate([corner, corner + _CELL - 1], axis=1)
    boxes = boxes + offsets[image, :, y, x] * (_CELL - 1)
    return np.column_stack([image, boxes, scores[image, y, x]]).astype(np.float64)


def _adjusted(rows: Rows, offsets: NDArray[np.float32], scores: NDArray[np.float32]) -> Rows:
    """Rows [B, 6] moved by offsets [B, 4], fractions of their sides, with new scores [B]."""
    size = rows[:, 3:5] - rows[:, 1:3] + 1
    boxes = rows[:, 1:5] + offsets * np.tile(size, 2)
    return np.column_stack([rows[:, 0], boxes, scores])


def _suppress(rows: Rows, threshold: float, relative_to: str = "union") -> Rows:
    """Non-maximum suppression within each image; equal scores are ordered by position, not by the batch."""
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], -rows[:, 5]))]
    kept = [rows[:0]]
    for image in np.unique(rows[:, 0]):
        own = rows[rows[:, 0] == image]
        kept.append(own[suppress_all(own[:, 1:5], threshold, relative_to)])
    return np.concatenate(kept)


def _squared(rows: Rows) -> Rows:
    return np.column_stack([rows[:, :1], square(rows[:, 1:5]), rows[:, 5:]])


def _detections(rows: Rows) -> Detections:
    """Rows [F, 16] of one image -> its detections, best first."""
    if not len(rows):
        return Detections.empty()
    best_first = rows[np.argsort(-rows[:, 5], kind="stable")].astype(np.float32)
    landmarks = np.stack([best_first[:, 6:11], best_first[:, 11:16]], axis=2)
    return Detections(best_first[:, 1:5], best_first[:, 5], landmarks)
