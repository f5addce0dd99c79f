"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719) as USynthFace uses it on faces, on batches.

For every image, `num_ops` times: an operation drawn uniformly (from USynthFace's thirteen), a magnitude bin drawn
uniformly from 1..magnitude (of 31 bins, 0 to 30), and a sign where the operation has one. A CPU goes image by image,
each through all of its operations; a GPU treats the images that drew the same operation together.

Draws: an image consumes 4 * num_ops uniform numbers, in the order of the batch. So the result for an image is a
function of its pixels, the seed and its position in the stream of images; cutting the stream into other batches
changes nothing.

Shapes: N batch, H height, W width, R operations an image.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facelib.augmentation.image_operations import IMAGE_OPERATIONS, Scratch
from facelib.augmentation.operations import OPERATIONS, check_batch, on_device, put_rows, rows_of
from facelib.augmentation.rng import new_generator, uniforms
from facelib.utils.devices import to_device

BINS = 31
DRAWS_PER_ROUND = 4  # operation, bin, sign, rounding of a fractional magnitude
SIGNED = frozenset(
    {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
)
# USynthFace's. Not among them: ShearY, TranslateY, Invert.
OPERATION_NAMES = (
    "Identity",
    "ShearX",
    "TranslateX",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
    "Sharpness",
    "Posterize",
    "Solarize",
    "AutoContrast",
    "Equalize",
    "Grayscale",
)


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
        operations: names in `OPERATIONS` to draw from; None takes USynthFace's thirteen. One that is named twice is
            drawn twice as often.

    Raises:
        ValueError: num_ops or magnitude out of range, no operation or an unknown one.
    """

    def __init__(
        self,
        num_ops: int = 4,
        magnitude: float = 16,
        seed: int | None = None,
        operations: Sequence[str] | None = None,
    ) -> None:
        if not isinstance(num_ops, int) or num_ops < 0:
            raise ValueError(f"num_ops = {num_ops!r}: must be a whole number of at least 0")
        self.operations = OPERATION_NAMES if operations is None else tuple(operations)
        for name in self.operations:
            _check_operation(name)
        if not self.operations:
            raise ValueError("operations: empty; num_ops = 0 leaves RandAugment out")
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
        rounds = np.asarray(draws, np.float64).reshape(len(images), self.num_ops, DRAWS_PER_ROUND)
        chosen, magnitudes = self._plan(rounds, images.shape[2], images.shape[3])
        if images.device.type == "cpu":
            return self._augment_each(images, chosen, magnitudes)
        result = images.clone(memory_format=torch.contiguous_format)
        for number in range(self.num_ops):
            self._round(result, chosen[:, number], magnitudes[:, number])
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
        _check_operation(op_name)
        check_batch(images)
        magnitudes = torch.as_tensor(magnitude, dtype=torch.float64).expand(len(images))
        if images.device.type == "cpu":
            result = torch.empty_like(images, memory_format=torch.contiguous_format)
            scratch = Scratch(*images.shape[2:])
            for image, value, target in zip(images.contiguous().numpy(), magnitudes.tolist(), result.numpy()):
                IMAGE_OPERATIONS[op_name](image, value, target, scratch)
            return result
        return OPERATIONS[op_name](images.contiguous(), to_device(magnitudes, images.device))

    def state_dict(self) -> dict[str, Any]:
        """All that a later, bit-exact continuation needs."""
        return {"magnitude": self.magnitude, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.magnitude = state["magnitude"]
        self.generator.set_state(state["generator"])

    def _plan(self, draws: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Operation (its number, -1 for none) and signed magnitude of every image and round; draws [N, R, 4]."""
        count = len(self.operations)
        chosen = np.minimum((draws[..., 0] * count).astype(np.int64), count - 1)
        bins = self._bins(draws[..., 1], draws[..., 3])
        table = _magnitude_table(self.operations, height, width)
        signs = np.where(draws[..., 2] < 0.5, -1.0, 1.0)
        signed = np.array([name in SIGNED for name in self.operations])
        magnitudes = table[chosen, bins.astype(np.int64)] * np.where(signed[chosen], signs, 1.0)
        return np.where(bins == 0, -1, chosen), magnitudes

    def _augment_each(self, images: Tensor, chosen: np.ndarray, magnitudes: np.ndarray) -> Tensor:
        """On a CPU: image by image."""
        functions = [IMAGE_OPERATIONS[name] for name in self.operations]
        result = torch.empty_like(images, memory_format=torch.contiguous_format)
        scratch, spare = Scratch(*images.shape[2:]), np.empty(images.shape[1:], np.uint8)
        rows = zip(images.contiguous().numpy(), result.numpy(), chosen.tolist(), magnitudes.tolist())
        for image, target, numbers, values in rows:
            steps = [(functions[number], value) for number, value in zip(numbers, values) if number >= 0]
            # Back and forth between two arrays, so that the last step writes the result.
            source, here, there = (image, target, spare) if len(steps) % 2 else (image, spare, target)
            for function, value in steps:
                function(source, value, here, scratch)
                source, here, there = here, there, here
            if not steps:
                target[:] = image
        return result

    def _round(self, images: Tensor, chosen: np.ndarray, magnitudes: np.ndarray) -> None:
        """On a GPU: one operation on every image, in place; the operations' numbers and magnitudes [N]."""
        order = np.argsort(chosen, kind="stable")  # images of one operation side by side
        rows, strengths = on_device(order, images.device), on_device(magnitudes[order], images.device)
        ends = np.searchsorted(chosen[order], np.arange(len(self.operations)), "right").tolist()
        begins = [int(np.searchsorted(chosen[order], 0)), *ends[:-1]]
        for name, begin, end in zip(self.operations, begins, ends, strict=True):
            if begin < end and name != "Identity":
                part = slice(begin, end)
                put_rows(images, rows[part], OPERATIONS[name](rows_of(images, rows[part]), strengths[part]))

    def _bins(self, which: np.ndarray, rounding: np.ndarray) -> np.ndarray:
        """Uniform over 1..m, where m is the magnitude rounded at random; 0 where m is 0."""
        whole = int(self.magnitude)
        largest = whole + (rounding < self.magnitude - whole).astype(np.float64)
        return np.minimum(np.floor(which * largest) + 1, largest)


def magnitude_of_bin(op_name: str, bins: np.ndarray, width: int, height: int | None = None) -> np.ndarray:
    """Unsigned magnitudes, in the operation's unit, of bins [n] in 0..30 for images `width` pixels wide.

    Args:
        height: of the images, for TranslateY; None: they are square.
    """
    bins = np.asarray(bins, np.float64)
    share = bins / (BINS - 1)
    match op_name:
        case "ShearX" | "ShearY":
            return 0.3 * share
        case "TranslateX":
            return 150 / 331 * width * share
        case "TranslateY":
            return 150 / 331 * (height or width) * share
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


@functools.lru_cache(maxsize=16)
def _magnitude_table(operations: tuple[str, ...], height: int, width: int) -> np.ndarray:
    """Magnitudes [operations, bins]."""
    return np.stack([magnitude_of_bin(name, np.arange(BINS), width, height) for name in operations])


def _check_operation(name: str) -> None:
    if name not in OPERATIONS:
        raise ValueError(f"operation {name!r} does not exist; choose one of {', '.join(OPERATIONS)}")
