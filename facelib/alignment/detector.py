"""Face detectors: what every one of them returns, and the registry that builds them by name.

Shapes: F faces found in one image; boxes [F, 4] are (left, top, right, bottom) and landmarks [F, 5, 2] are (x, y), both
in pixels of the image as it was given; landmarks in the order eyes, nose, mouth corners, left one in the image first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from facelib.utils.registry import Factory, Registry


@dataclass(frozen=True)
class Detections:
    """Faces found in one image, best score first.

    Attributes:
        boxes: float32 [F, 4], left, top, right, bottom.
        scores: float32 [F], 0..1.
        landmarks: float32 [F, 5, 2].
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    landmarks: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, which: NDArray[Any]) -> "Detections":
        """Return the faces an index or bool array picks."""
        return Detections(self.boxes[which], self.scores[which], self.landmarks[which])

    @classmethod
    def empty(cls) -> "Detections":
        """Return the detections of an image without a face."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros((0, 5, 2), np.float32))


class FaceDetector(Protocol):
    """Anything that finds faces in a list of RGB images."""

    def detect(self, images: Sequence[NDArray[np.uint8]]) -> list[Detections]:
        """Return one `Detections` an image, in the order given; the images may differ in size."""
        ...


ENTRY_POINT_GROUP = "facelib.detectors"

_REGISTRY = Registry(
    "detector",
    ENTRY_POINT_GROUP,
    {"retinaface": "facelib.alignment.retinaface", "mtcnn": "facelib.alignment.mtcnn"},
)


def register_detector(name: str) -> Callable[[Factory], Factory]:
    """Decorate a class (or function) so that `build_detector(name, **settings)` calls it with those settings.

    Example:
        @register_detector("mine")
        class MyDetector:                     # `detect` of FaceDetector
            def __init__(self, score_threshold: float = 0.5): ...

    A separate package names the class in its pyproject.toml instead, and every process finds it:
        [project.entry-points."facelib.detectors"]
        mine = "my_package.my_module:MyDetector"

    Raises:
        ValueError: another class already has the name.
    """
    return _REGISTRY.register(name)


def build_detector(name: str = "retinaface", **settings: Any) -> FaceDetector:
    """Build a face detector by name, e.g. `build_detector("retinaface", threads=2)`.

    Args:
        name: `retinaface`, `mtcnn`, or one that is registered (see `register_detector`).
        **settings: keyword arguments of that detector (`RetinaFace`, `MTCNN`).

    Raises:
        ValueError: unknown name or setting (the message lists those that exist), or a value out of range.
        ImportError: the detector needs a package that is not installed (the message says how to install it).
    """
    return cast(FaceDetector, _REGISTRY.build(name, **settings))


def check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    """Raise ValueError naming the first entry that is not an uint8 [H, W, 3] array."""
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"images[{index}] is {found}: detectors take uint8 [H, W, 3] RGB arrays")
        if 0 in image.shape:
            raise ValueError(f"images[{index}] has shape {list(image.shape)}: the image is empty")


def detect_by_shape(
    images: Sequence[NDArray[np.uint8]],
    max_size: int,
    images_per_call: Callable[[int, int], int],
    detect_stack: Callable[[list[NDArray[np.uint8]]], list[Detections]],
) -> list[Detections]:
    """Run `detect_stack` on lists of equally sized images and return the results in the order given.

    Args:
        images: RGB uint8 [H, W, 3] each.
        max_size: images whose longer side exceeds it (pixels) are shrunk to it; results are scaled back.
        images_per_call: (height, width) -> how many images of that size `detect_stack` may be given at once.
        detect_stack: the detector itself.
    """
    check_images(images)
    shrunk = [_shrink(image, max_size) for image in images]
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(shrunk):
        groups.setdefault((image.shape[0], image.shape[1]), []).append(index)
    found = [Detections.empty()] * len(images)
    for shape, indices in groups.items():
        step = images_per_call(*shape)
        for start in range(0, len(indices), step):
            chunk = indices[start : start + step]
            for index, detections in zip(chunk, detect_stack([shrunk[i] for i in chunk])):
                found[index] = _rescale(detections, images[index].shape, shape)
    return found


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError naming the setting unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: give a number from {low:g} to {high:g}")


def _shrink(image: NDArray[np.uint8], max_size: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = max_size / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return cv2.resize(np.ascontiguousarray(image), size, interpolation=cv2.INTER_AREA)


def _rescale(detections: Detections, shape: tuple[int, ...], detected_shape: tuple[int, int]) -> Detections:
    """Bring detections in an image of `detected_shape` (height, width) to the image of `shape`."""
    if shape[:2] == detected_shape:
        return detections
    ratio = np.array([shape[1] / detected_shape[1], shape[0] / detected_shape[0]], dtype=np.float32)
    return Detections(detections.boxes * np.tile(ratio, 2), detections.scores, detections.landmarks * ratio)
