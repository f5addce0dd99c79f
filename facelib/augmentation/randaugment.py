"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as USynthFace uses it on faces, batched.

For every image, `num_ops` times: an operation drawn uniformly from thirteen, a magnitude bin drawn uniformly from
1..magnitude (of 31 bins, 0 to 30), and a sign where the operation has one. In each round the images that drew the same
operation are treated together.

Draws: an image consumes 4 * num_ops uniform numbers, in the order of the batch. So the result for an image is a
function of its pixels, the seed and its position in the stream of images; cutting the stream into other batches
changes nothing.

Shapes: N batch, H height, W width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from facelib.augmentation.operations import OPERATIONS, check_batch, on_device, put_rows, rows_of
from facelib.augmentation.rng import new_generator, uniforms
from facelib.utils.devices import to_device

BINS = 31
DRAWS_PER_ROUND = 4  # operation, bin, sign, rounding of a fractional magnitude
CHUNK = 16  # images an operation treats at a time on the CPU: their intermediate results stay in its cache
SIGNED = frozenset({"ShearX", "TranslateX", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"})
OPERATION_NAMES = tuple(OPERATIONS)


class RandAugment:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, H, W], on the CPU or a GPU.

    `magnitude` may be set between batches, so that augmentation grows while training. A fractional one is rounded
    at random for every operation (16.3 counts as 17 for 30 % of them), which moves the distribution continuously
    and leaves it as published at whole numbers. Bin 0, which only magnitudes below 1 draw, leaves the image as it
    is: magnitude 0 is no augmentation, 0.5 does half of the operations at their mildest.

    Args:
        num_ops: operations an image, at least 0.
        magnitude: largest bin, 0 to 30.
        seed: of the stream of draws; None takes entropy from the system.

    Raises:
        ValueError: num_ops or magnitude out of range.
    """

    def __init__(self, num_ops: int = 4, magnitude: float = 16, seed: int | None = None) -> None:
        if not isinstance(num_ops, int) or num_ops < 0:
            raise ValueError(f"num_ops = {num_ops!r}: must be a whole number of at least 0")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.generator = new_generator(seed)

    @property
    def magnitude(self) -> float:
        """Largest bin that is drawn, 0 to 30."""
        return self._magnitude

    @magnitude.setter
    def magnitude(self, value: float) -> None:
        if not 0 <= value <= BINS - 1:
            raise ValueError(f"magnitude = {value!r}: must lie in [0, {BINS - 1}]")
        self._magnitude = value

    @property
    def draws_per_image(self) -> int:
        """Uniform numbers that one image consumes."""
        return DRAWS_PER_ROUND * self.num_ops

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment a batch with draws from `generator` (default: its own stream).

        Raises:
            ValueError: images are not uint8 [N, 3, H, W].
        """
        check_batch(images)
        return self.transform(images, uniforms(len(images), self.draws_per_image, generator or self.generator))

    def transform(self, images: Tensor, draws: Tensor | np.ndarray) -> Tensor:
        """Augment with given draws: uniform numbers [N, draws_per_image] on the CPU. Leaves the images untouched.

        The host decides by them what is done to which image; a GPU is sent orders and never waited for.
        """
        result = images.clone(memory_format=torch.contiguous_format)
        rounds = np.asarray(draws, np.float64).reshape(len(images), self.num_ops, DRAWS_PER_ROUND)
        for number in range(self.num_ops):
            self._round(result, rounds[:, number])
        return result

    @staticmethod
    def apply(op_name: str, images: Tensor, magnitude: float | Tensor = 0.0) -> Tensor:
        """One operation at a signed magnitude in the operation's own unit (see `operations`), e.g. ("Rotate", x,
        -16.0).

        Args:
            magnitude: one for all images, or float [N].

        Raises:
            ValueError: unknown operation, or images are not uint8 [N, 3, H, W].
        """
        if op_name not in OPERATIONS:
            raise ValueError(f"operation {op_name!r} does not exist; choose one of {', '.join(OPERATIONS)}")
        check_batch(images)
        magnitudes = to_device(torch.as_tensor(magnitude, dtype=torch.float64), images.device)
        return OPERATIONS[op_name](images.contiguous(), magnitudes.expand(len(images)))

    def state_dict(self) -> dict[str, Any]:
        """All that a later, bit-exact continuation needs."""
        return {"magnitude": self.magnitude, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.magnitude = state["magnitude"]
        self.generator.set_state(state["generator"])

    def _round(self, images: Tensor, draws: np.ndarray) -> None:
        """One operation on every image, in place; draws [N, 4]."""
        count = len(OPERATION_NAMES)
        operations = np.minimum((draws[:, 0] * count).astype(np.int64), count - 1)
        bins = self._bins(draws[:, 1], draws[:, 3])
        signs = np.where(draws[:, 2] < 0.5, -1.0, 1.0)
        operations[bins == 0] = OPERATION_NAMES.index("Identity")
        order = np.argsort(operations, kind="stable")  # images of one operation side by side
        groups = np.split(order, np.cumsum(np.bincount(operations, minlength=count))[:-1])
        magnitudes = np.concatenate(
            [
                magnitude_of_bin(name, bins[rows], images.shape[3]) * (signs[rows] if name in SIGNED else 1.0)
                for name, rows in zip(OPERATION_NAMES, groups, strict=True)
            ]
        )
        rows, strengths = on_device(order, images.device), on_device(magnitudes, images.device)
        begin = 0
        for name, group in zip(OPERATION_NAMES, groups, strict=True):
            end = begin + len(group)
            size = CHUNK if images.device.type == "cpu" else max(len(group), 1)
            for at in range(begin, end if name != "Identity" else begin, size):
                part = slice(at, min(at + size, end))
                put_rows(images, rows[part], OPERATIONS[name](rows_of(images, rows[part]), strengths[part]))
            begin = end

    def _bins(self, which: np.ndarray, rounding: np.ndarray) -> np.ndarray:
        """Uniform over 1..m, where m is the magnitude rounded at random; 0 where m is 0."""
        whole = int(self.magnitude)
        largest = whole + (rounding < self.magnitude - whole).astype(np.float64)
        return np.minimum(np.floor(which * largest) + 1, largest)


def magnitude_of_bin(op_name: str, bins: np.ndarray, width: int) -> np.ndarray:
    """Unsigned magnitudes, in the operation's unit, of bins [n] in 0..30 for images `width` pixels wide."""
    bins = np.asarray(bins, np.float64)
    share = bins / (BINS - 1)
    match op_name:
        case "ShearX":
            return 0.3 * share
        case "TranslateX":
            return 150 / 331 * width * share
        case "Rotate":
            return 30 * share
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            return 0.9 * share
        case "Posterize":
            return 8 - np.round(4 * share)
        case "Solarize":
            return 255 - 8.5 * bins  # exact: at every second bin it is a level
        case _:
            return np.zeros_like(share)
