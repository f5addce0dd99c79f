"""MTCNN (Zhang et al., SPL 2016, arXiv 1604.02878) on weights and box arithmetic of the PyPI package `mtcnn`.

Three networks in a row: PNet slides over an image pyramid and proposes boxes, RNet and ONet refine them, ONet adds
landmarks. The package's own driver is not used, for two reasons. Its pyramid has as many levels as `min_face_size=20`
needs whatever the setting is, so that for larger faces on small images its last levels fall below PNet's 12 pixels,
TensorFlow refuses them, and that error is reported as "no faces" for the whole batch. And equal scores are ordered by
the batch, so that a face's landmarks can move by a pixel with its neighbors. Here the pyramid stops at 12 pixels,
TensorFlow's errors stay errors, and ties are ordered by position.

Shapes: N images of one size; B proposals as rows (image, left, top, right, bottom, score[, 5 x, 5 y]).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.alignment.detector import Detections, check_range, detect_by_shape, register_detector
from facelib.utils.devices import check_device
from facelib.utils.tensorflow import device_name, import_tensorflow, require_tensorflow

_CELL = 12  # PNet's field of view in pixels: the smallest face it sees, and the smallest image it takes
_BATCH_PIXELS = 20 * 512 * 512  # bounds the memory of the pyramid's first level
_PNET_NMS, _RNET_NMS, _ONET_NMS = (0.5, 0.7), 0.7, 0.7


@register_detector("mtcnn")
class MTCNN:
    """MTCNN detector on TensorFlow (optional extra `tensorflow`): slower than RetinaFace, the one USynthFace used.

    TensorFlow is started at the first image.

    Args:
        score_threshold: faces the last network scores at or below it are not returned.
        proposal_thresholds: the same for the first two networks.
        min_face_size: smallest face looked for, in pixels; larger is faster.
        scale_factor: ratio of neighboring pyramid levels.
        max_size: images whose longer side exceeds it (pixels) are shrunk to it for detection.
        batch_size: most images in one pass; fewer when they are large.
        threads: CPU threads of TensorFlow, set once a process, before TensorFlow's first operation.
        device: `auto` (CUDA when TensorFlow sees it, else CPU), `cpu` or `cuda`.

    Raises:
        ValueError: a setting out of range.
        ImportError: TensorFlow or mtcnn is missing.
    """

    def __init__(
        self,
        score_threshold: float = 0.8,
        proposal_thresholds: tuple[float, float] = (0.6, 0.7),
        min_face_size: int = 20,
        scale_factor: float = 0.709,
        max_size: int = 1024,
        batch_size: int = 20,
        threads: int = 1,
        device: str = "auto",
    ) -> None:
        check_range("score_threshold", score_threshold, 0.01, 1)
        for threshold in proposal_thresholds:
            check_range("proposal_thresholds", threshold, 0.01, 1)
        check_range("min_face_size", min_face_size, _CELL, 8192)
        check_range("scale_factor", scale_factor, 0.1, 0.95)
        check_range("max_size", max_size, 32, 8192)
        check_range("batch_size", batch_size, 1, 4096)
        check_range("threads", threads, 1, 1024)
        check_device(device)
        self.score_threshold = score_threshold
        self.proposal_thresholds = tuple(proposal_thresholds)
        self.min_face_size = min_face_size
        self.scale_factor = scale_factor
        self.max_size = max_size
        self.batch_size = batch_size
        require_tensorflow("the mtcnn detector", "mtcnn")
        self._threads, self._wanted = threads, device
        self._tf: Any = None

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Find faces in RGB images, uint8 [H, W, 3] each; images of one size are run together.

        Raises:
            ValueError: an entry is not an uint8 [H, W, 3] array, or CUDA is wanted where TensorFlow sees none.
        """
        if self._tf is None:
            tf = import_tensorflow(self._threads, "the mtcnn detector")
            self._device = device_name(tf, self._wanted)
            self._boxes, self._pictures, self._pnet, self._rnet, self._onet = _load_networks(tf, self._device)
            self._tf = tf
        return detect_by_shape(images, self.max_size, self._images_per_call, self._detect_stack)

    def _images_per_call(self, height: int, width: int) -> int:
        return max(1, min(self.batch_size, _BATCH_PIXELS // (height * width)))

    def _detect_stack(self, images: list[NDArray[np.uint8]]) -> list[Detections]:
        """Detect in images of one size."""
        with self._tf.device(self._device):
            pixels = self._tf.constant((np.stack(images).astype(np.float32) - 127.5) / 128)  # [N, H, W, 3]
            rows = self._propose(pixels)
            if len(rows):
                rows = self._refine(pixels, rows)
            if len(rows):
                rows = self._locate(pixels, rows)
        return [_detections(rows[rows[:, 0] == index]) for index in range(len(images))]

    def _propose(self, pixels: Any) -> NDArray[np.float64]:
        """PNet over the pyramid: squared proposals [B, 6]."""
        count, height, width = pixels.shape[:3]
        levels = []
        for scale in pyramid_scales(height, width, self.min_face_size, self.scale_factor):
            size = (int(height * scale + 1e-6), int(width * scale + 1e-6))
            level = self._tf.image.resize(pixels, size, method=self._tf.image.ResizeMethod.AREA)
            offsets, scores = self._pnet(level)
            rows = self._boxes.generate_bounding_box(offsets, scores, self.proposal_thresholds[0])
            rows = self._boxes.upscale_bboxes(rows, np.full(count, scale))
            levels.append(self._suppress(rows, _PNET_NMS[0]))
        rows = np.concatenate(levels) if levels else np.empty((0, 6))
        return self._boxes.resize_to_square(self._suppress(rows, _PNET_NMS[1]))

    def _refine(self, pixels: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """RNet on the proposals' 24x24 patches: squared boxes [B, 6]."""
        offsets, scores = self._judge_patches(self._rnet, pixels, rows, 24)
        rows = self._boxes.replace_confidence(rows, scores)
        rows = self._boxes.adjust_bboxes(rows, offsets)
        rows = self._boxes.pick_matches(rows, score_threshold=self.proposal_thresholds[1])
        return self._boxes.resize_to_square(self._suppress(rows, _RNET_NMS))

    def _locate(self, pixels: Any, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """ONet on the boxes' 48x48 patches: boxes with landmarks [B, 16]."""
        offsets, relative, scores = self._judge_patches(self._onet, pixels, rows, 48)
        # Landmarks come as fractions of the box before its last adjustment.
        side = rows[:, 3:5] - rows[:, 1:3] + 1
        x = rows[:, 1:2] + relative[:, :5] * side[:, :1] - 1
        y = rows[:, 2:3] + relative[:, 5:] * side[:, 1:] - 1
        rows = self._boxes.replace_confidence(rows, scores)
        rows = np.concatenate([self._boxes.adjust_bboxes(rows, offsets), x, y], axis=1)
        rows = self._boxes.pick_matches(rows, scores_column=5, score_threshold=self.score_threshold)
        return self._suppress(rows, _ONET_NMS, method="min")

    def _judge_patches(
        self, network: Any, pixels: Any, rows: NDArray[np.float64], side: int
    ) -> list[NDArray[np.float32]]:
        """Run a network on the boxes' patches, resized to `side` pixels: its outputs, each [B, ...]."""
        # One row takes another matrix product in TensorFlow, with other last bits: two rows keep results of an image
        # independent of what else is in the batch.
        twice = np.concatenate([rows, rows]) if len(rows) == 1 else rows
        patches = self._pictures.extract_patches(pixels, twice, expected_size=(side, side))
        return [output.numpy()[: len(rows)] for output in network(patches)]

    def _suppress(self, rows: NDArray[np.float64], threshold: float, method: str = "union") -> NDArray[np.float64]:
        """Non-maximum suppression within each image; equal scores are ordered by position, not by the batch."""
        order = np.lexsort((rows[:, 2], rows[:, 1], -rows[:, 5]))
        return self._boxes.smart_nms_from_bboxes(rows[order], threshold=threshold, method=method, initial_sort=False)


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


def _detections(rows: NDArray[np.float64]) -> Detections:
    """Rows [F, 16] of one image -> its detections, best first."""
    if not len(rows):
        return Detections.empty()
    best_first = rows[np.argsort(-rows[:, 5], kind="stable")].astype(np.float32)
    landmarks = np.stack([best_first[:, 6:11], best_first[:, 11:16]], axis=2)
    return Detections(best_first[:, 1:5], best_first[:, 5], landmarks)


def _load_networks(tf: Any, device: str) -> tuple[Any, Any, Any, Any, Any]:
    """Return the package's box and image helpers, and the three networks compiled for any batch and image size."""
    from mtcnn.stages import StageONet, StagePNet, StageRNet
    from mtcnn.utils import bboxes, images

    def compiled(stage: Any, height: int | None, width: int | None) -> Any:
        signature = [tf.TensorSpec([None, height, width, 3], tf.float32)]
        return tf.function(stage.model, input_signature=signature)

    with tf.device(device):
        return (
            bboxes,
            images,
            compiled(StagePNet(), None, None),
            compiled(StageRNet(), 24, 24),
            compiled(StageONet(), 48, 48),
        )
