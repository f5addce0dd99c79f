"""Face detectors: what every one of them returns, and the registry that builds them by name.

Shapes: F faces found in one image; boxes [F, 4] are (left, top, right, bottom) and landmarks [F, 5, 2] are (x, y), both
in pixels of the image as it was given; landmarks in the order eyes, nose, mouth corners, the left one in the image first.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


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


_BUILDERS: dict[str, Callable[..., FaceDetector]] = {}


def register_detector(name: str, build: Callable[..., FaceDetector]) -> None:
    """Make `build_detector(name, **settings)` call `build(**settings)`; its keyword arguments are the settings.

    Raises:
        ValueError: the name is taken.
    """
    _load_built_in()
    if name in _BUILDERS:
        raise ValueError(f"detector {name!r} is registered already: choose another name")
    _BUILDERS[name] = build


def build_detector(name: str = "retinaface", **settings: Any) -> FaceDetector:
    """Build a face detector by name, e.g. `build_detector("retinaface", threads=2)`.

    Args:
        name: `retinaface`, `mtcnn`, or a name given to `register_detector`.
        **settings: keyword arguments of that detector (`RetinaFace`, `MTCNN`).

    Raises:
        ValueError: unknown name or setting (the message lists those that exist), or a value out of range.
        ImportError: the detector needs a package that is not installed (the message says how to install it).
    """
    _load_built_in()
    if name not in _BUILDERS:
        raise ValueError(f"detector {name!r} does not exist: choose one of {sorted(_BUILDERS)}")
    build = _BUILDERS[name]
    parameters = inspect.signature(build).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = sorted(set(settings) - set(parameters))
    if unknown and not takes_any:
        raise ValueError(f"detector {name!r} has no setting {unknown[0]!r}: its settings are {sorted(parameters)}")
    return build(**settings)


def check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    """Raise ValueError naming the first entry that is not an uint8 [H, W, 3] array."""
    for index, image in enumerate(images):
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
            raise ValueError(f"images[{index}] is {found}: detectors take uint8 [H, W, 3] RGB arrays")
        if 0 in image.shape:
            raise ValueError(f"images[{index}] has shape {list(image.shape)}: the picture is empty")


def group_by_shape(images: Sequence[NDArray[np.uint8]]) -> dict[tuple[int, int], list[int]]:
    """Return the indices of the images of every (height, width), so that each group can be stacked."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape[:2], []).append(index)
    return groups


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError naming the setting unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}: give a number from {low:g} to {high:g}")


def _load_built_in() -> None:
    # Imported late: both modules import this one.
    from facelib.alignment.mtcnn import MTCNN
    from facelib.alignment.retinaface import RetinaFace

    _BUILDERS.setdefault("retinaface", RetinaFace)
    _BUILDERS.setdefault("mtcnn", MTCNN)
