"""Images in, aligned crops or counted rejections out: detector, choice of one face, checks and warp.

Shapes: F faces found in one image; crops [size, size, 3] uint8 in the color order of the image.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facelib.alignment.detector import Detections, FaceDetector, check_range
from facelib.alignment.similarity import CROP_SIZE, fit_similarity, scaled_template, warp

SelectionRule = Literal["largest_central", "largest", "most_central", "highest_score"]


class RejectionReason(StrEnum):
    """Why an image gave no crop. Every rejected image has exactly one of these."""

    NO_FACE = "no_face"
    """The detector found nothing."""
    LOW_SCORE = "low_score"
    """All faces found score below `min_score`."""
    TOO_SMALL = "too_small"
    """The face chosen is narrower or lower than `min_face_pixels`."""
    DEGENERATE_LANDMARKS = "degenerate_landmarks"
    """No similarity transform fits the chosen face's landmarks."""


@dataclass(frozen=True)
class AlignedFace:
    """One image's face on the template.

    Attributes:
        image: the crop, uint8 [size, size, 3].
        score: the detector's, 0..1.
        landmarks: float32 [5, 2] in source pixels.
        box: float32 [4], left, top, right, bottom in source pixels.
        faces: how many faces with a sufficient score the image shows.
    """

    image: NDArray[np.uint8]
    score: float
    landmarks: NDArray[np.float32]
    box: NDArray[np.float32]
    faces: int


@dataclass(frozen=True)
class Rejection:
    """One image without a crop: the reason, and what was measured against which limit."""

    reason: RejectionReason
    detail: str


def select_face(
    detections: Detections, image_shape: Sequence[int], rule: SelectionRule = "largest_central"
) -> int | None:
    """Return the index of the face an image is about, or None when it shows none.

    Args:
        detections: what a detector found.
        image_shape: (H, W) or (H, W, 3) of the image.
        rule: `largest` box area, as USynthFace (facenet-pytorch's `select_largest`); `most_central`, the box center
            nearest to the image's; `largest_central`, the largest area minus twice the squared distance of the centers
            (pixels), as FaceNet and insightface; `highest_score`, as UNPG on K-FACE. The better score wins a tie.

    Raises:
        ValueError: unknown rule.
    """
    if rule not in get_args(SelectionRule):
        raise ValueError(f"selection is {rule!r}: choose one of {', '.join(get_args(SelectionRule))}")
    if not len(detections):
        return None
    boxes = detections.boxes.astype(np.float64)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    middle = np.array([image_shape[1], image_shape[0]]) / 2
    distance_squared = (((boxes[:, :2] + boxes[:, 2:]) / 2 - middle) ** 2).sum(axis=1)
    merit = {
        "largest_central": area - 2 * distance_squared,
        "largest": area,
        "most_central": -distance_squared,
        "highest_score": np.zeros(len(area)),
    }[rule]
    return int(np.lexsort((-detections.scores, -merit))[0])


class Unaligned:
    """In place of an `Aligner`: every image as it is, without detection. Score, landmarks and box are NaN."""

    def align(self, images: Sequence[NDArray[np.uint8]]) -> list[AlignedFace | Rejection]:
        """One result an image, in the order given."""
        landmarks, box = np.full((5, 2), np.nan, np.float32), np.full(4, np.nan, np.float32)
        return [AlignedFace(image, float("nan"), landmarks, box, 0) for image in images]


class Aligner:
    """Turn images into aligned crops, with a reason for every image that gives none.

    Args:
        detector: see `build_detector`.
        template: a name in `TEMPLATES` or positions [5, 2] in a 112x112 crop.
        size: side of the crops in pixels.
        min_score: faces the detector scores lower are ignored (the detector's own threshold should not be higher).
        min_face_pixels: least width and height of the chosen face's box, in source pixels.
        selection: which of several faces is taken, see `select_face`.

    Raises:
        ValueError: a setting out of range, or an unknown template or selection.
    """

    def __init__(
        self,
        detector: FaceDetector,
        template: str | ArrayLike = "arcface",
        size: int = CROP_SIZE,
        min_score: float = 0.9,
        min_face_pixels: float = 20,
        selection: SelectionRule = "largest_central",
    ) -> None:
        check_range("min_score", min_score, 0, 1)
        check_range("min_face_pixels", min_face_pixels, 0, 100_000)
        select_face(Detections.empty(), (1, 1), selection)
        self.detector = detector
        self.size = size
        self.min_score = min_score
        self.min_face_pixels = min_face_pixels
        self.selection = selection
        self._template = scaled_template(template, size)

    def align(self, images: Sequence[NDArray[np.uint8]]) -> list[AlignedFace | Rejection]:
        """Return one result an image, in the order given.

        Args:
            images: RGB uint8 [H, W, 3] each, or one array [N, H, W, 3].

        Raises:
            ValueError: an entry is not an uint8 [H, W, 3] array.
        """
        chosen = [self._choose(image, found) for image, found in zip(images, self.detector.detect(images))]
        faces = [choice for choice in chosen if not isinstance(choice, Rejection)]
        landmarks = np.array([face.landmarks for face in faces], dtype=np.float64).reshape(-1, 5, 2)
        transforms = iter(zip(*fit_similarity(landmarks, self._template)))
        results: list[AlignedFace | Rejection] = []
        for image, choice in zip(images, chosen):
            if isinstance(choice, Rejection):
                results.append(choice)
                continue
            matrix, fitted = next(transforms)
            if fitted:
                crop = warp(image, matrix, self.size).astype(np.uint8, copy=False)
                results.append(AlignedFace(crop, choice.score, choice.landmarks, choice.box, choice.faces))
            else:
                detail = f"no similarity transform fits the landmarks {choice.landmarks.tolist()}"
                results.append(Rejection(RejectionReason.DEGENERATE_LANDMARKS, detail))
        return results

    def _choose(self, image: NDArray[np.uint8], found: Detections) -> "_Choice | Rejection":
        if not len(found):
            return Rejection(RejectionReason.NO_FACE, "the detector found no face")
        good = found.select(found.scores >= self.min_score)
        index = select_face(good, image.shape, self.selection)
        if index is None:
            detail = f"best score {found.scores.max():.3f} is below {self.min_score:g}"
            return Rejection(RejectionReason.LOW_SCORE, detail)
        left, top, right, bottom = good.boxes[index].tolist()
        side = min(right - left, bottom - top)
        if side < self.min_face_pixels:
            detail = f"the face is {side:.1f} pixels in size, less than {self.min_face_pixels:g}"
            return Rejection(RejectionReason.TOO_SMALL, detail)
        return _Choice(good.landmarks[index], good.boxes[index], float(good.scores[index]), len(good))


def count_rejections(results: Iterable[AlignedFace | Rejection]) -> dict[str, int]:
    """Return how many results were rejected for each reason; every reason is a key, in a fixed order."""
    counts = Counter(result.reason for result in results if isinstance(result, Rejection))
    return {reason.value: counts[reason] for reason in RejectionReason}


@dataclass(frozen=True)
class _Choice:
    """The face an image is aligned by, and how many the image shows."""

    landmarks: NDArray[np.float32]
    box: NDArray[np.float32]
    score: float
    faces: int
