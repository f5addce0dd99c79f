"""Arithmetic of boxes that detectors share.

Shapes: B boxes as rows (left, top, right, bottom), pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]


def overlaps(box: Boxes, others: Boxes, relative_to: str = "union") -> Boxes:
    """Overlap of each of `box` [..., 4] with `others` [..., 4] (broadcast): intersection over union, or over the
    smaller of the two boxes (`min`)."""
    width, height = (
        np.minimum(box[..., axis + 2], others[..., axis + 2]) - np.maximum(box[..., axis], others[..., axis])
        for axis in (0, 1)
    )
    intersection = np.maximum(width, 0) * np.maximum(height, 0)
    areas, other_areas = box_areas(box), box_areas(others)
    if relative_to == "min":
        return np.asarray(intersection / np.minimum(areas, other_areas))
    return np.asarray(intersection / (areas + other_areas - intersection))


def box_areas(boxes: Boxes) -> Boxes:
    """Areas of boxes [..., 4]."""
    return np.asarray((boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1]))


def suppress_greedy(boxes: Boxes, threshold: float) -> npt.NDArray[np.intp]:
    """Greedy non-maximum suppression of boxes [B, 4], best first: indices of those that stay."""
    alive = np.ones(len(boxes), dtype=bool)
    kept = []
    for index in range(len(boxes)):
        if alive[index]:
            kept.append(index)
            alive &= overlaps(boxes[index], boxes) <= threshold
    return np.array(kept, dtype=np.intp)


def suppress_all(boxes: Boxes, threshold: float, relative_to: str = "union") -> npt.NDArray[np.intp]:
    """As `suppress_greedy`, but a suppressed box still suppresses: only boxes that overlap no better one stay.

    This is what the package `mtcnn` computes; it keeps fewer boxes of a chain of overlapping ones.
    """
    over = overlaps(boxes[:, None], boxes[None], relative_to) > threshold
    return np.flatnonzero(~np.triu(over, k=1).any(axis=0))


def square(boxes: Boxes) -> Boxes:
    """Boxes [B, 4] grown to squares around their centers."""
    size = boxes[:, 2:] - boxes[:, :2]
    side = size.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + size * 0.5 - side * 0.5
    return np.concatenate([corner, corner + side], axis=1)
