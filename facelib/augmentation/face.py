"""One augmentation for training on faces: mirror, RandAugment, and optional distortions, all from one stream of draws.

Order: mirror, random resized crop, shift and scale, RandAugment, color jitter, gamma, blur, low resolution, noise,
cutout, grayscale.

Every image consumes the same number of draws whatever the settings, in the order of the batch: the result for an
image is a function of its pixels, the settings, the seed and its position in the stream, and two runs that differ
in one setting share all other draws. Only the random resized crop has draws of its own where it is used.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facelib.augmentation import distortions
from facelib.augmentation.operations import check_batch, on_device, put_rows, rows_of
from facelib.augmentation.randaugment import RandAugment
from facelib.augmentation.rng import new_generator, uniforms

Distortion = Callable[[Tensor, Tensor, float], Tensor]
CHUNK = 16  # images a distortion treats at a time on the CPU: their intermediate results stay in its cache

# Name: (function, its number of draws, its amplitude at strength 1). Before and after RandAugment, in this order.
CROPS: dict[str, tuple[Distortion, int, float]] = {
    "random_resized_crop": (distortions.random_resized_crop, 2 * distortions.CROP_ATTEMPTS + 2, 0.8)
}
GEOMETRIC: dict[str, tuple[Distortion, int, float]] = {"shift_scale": (distortions.shift_scale, 3, 0.15)}
PHOTOMETRIC: dict[str, tuple[Distortion, int, float]] = {
    "color_jitter": (distortions.color_jitter, 5, 0.4),
    "gamma": (distortions.gamma, 1, 0.5),
    "blur": (distortions.gaussian_blur, 1, 2.0),
    "low_resolution": (distortions.low_resolution, 1, 0.8),
    "noise": (distortions.additive_noise, 2, 16.0),
    "cutout": (distortions.cutout, 7, 0.5),
}


class FaceAugmentation:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, H, W], on the CPU or a GPU.

    Args:
        flip: probability of flipping.
        num_ops, magnitude: of RandAugment; 0 operations leave it out.
        grayscale: probability of losing color.
        shift_scale, color_jitter, gamma, blur, low_resolution, noise, cutout, random_resized_crop: probability of each
            distortion.
        strength: in [0, 1], may be set between batches. Scales RandAugment's magnitude and the amplitude of every
            distortion; at 0 only flipping and grayscale are left, whose probabilities it does not touch.
        amplitudes: other amplitudes at strength 1, by name of the distortion (units: see `distortions`).
        operations: RandAugment's, see there.
        seed: of the stream of draws; None takes entropy from the system.

    Raises:
        ValueError: a probability, the strength or an amplitude is out of range, or an amplitude's name is unknown.
    """

    def __init__(
        self,
        flip: float = 0.5,
        num_ops: int = 4,
        magnitude: float = 16,
        grayscale: float = 0.0,
        shift_scale: float = 0.0,
        color_jitter: float = 0.0,
        gamma: float = 0.0,
        blur: float = 0.0,
        low_resolution: float = 0.0,
        noise: float = 0.0,
        cutout: float = 0.0,
        random_resized_crop: float = 0.0,
        strength: float = 1.0,
        amplitudes: dict[str, float] | None = None,
        seed: int | None = None,
        operations: Sequence[str] | None = None,
    ) -> None:
        self.probabilities = {
            "flip": flip,
            "grayscale": grayscale,
            "shift_scale": shift_scale,
            "color_jitter": color_jitter,
            "gamma": gamma,
            "blur": blur,
            "low_resolution": low_resolution,
            "noise": noise,
            "cutout": cutout,
            "random_resized_crop": random_resized_crop,
        }
        for name, probability in self.probabilities.items():
            if not 0 <= probability <= 1:
                raise ValueError(f"{name} = {probability!r}: a probability must lie in [0, 1]")
        self.amplitudes = _checked_amplitudes(amplitudes or {})
        self.magnitude = magnitude
        self.randaugment = RandAugment(num_ops, magnitude, 0, operations)  # draws come from this object's generator
        self.generator = new_generator(seed)
        self.strength = strength

    @property
    def strength(self) -> float:
        """Scale of everything graded, in [0, 1]."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not 0 <= value <= 1:
            raise ValueError(f"strength = {value!r}: must lie in [0, 1]")
        self._strength = value
        self.randaugment.magnitude = self.magnitude * value

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment a batch with draws from `generator` (default: its own stream). The images are left untouched.

        Raises:
            ValueError: images are not uint8 [N, 3, H, W].
        """
        check_batch(images)
        return self.transform(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """What `transform` needs for `count` images: uniform numbers float64 [count, draws an image] on the CPU."""
        return uniforms(count, sum(self._widths), generator or self.generator)

    def transform(self, images: Tensor, draws: Tensor | np.ndarray) -> Tensor:
        """Augment with given draws, on the device of the images. The images are left untouched.

        A GPU gives the same images as the CPU up to rounding, and the host never waits for it.
        """
        draws = np.asarray(draws)
        flip, gray, randaugment, *others = np.split(draws, np.cumsum(self._widths)[:-1], axis=1)
        columns = dict(zip({**GEOMETRIC, **PHOTOMETRIC, **CROPS}, others))

        images = distortions.horizontal_flip(images, self._chosen("flip", flip, images.device))
        for name in (*CROPS, *GEOMETRIC):
            self._distort(name, images, columns[name])
        images = self.randaugment.transform(images, randaugment)
        for name in PHOTOMETRIC:
            self._distort(name, images, columns[name])
        chosen = self._chosen("grayscale", gray, images.device)
        put_rows(images, chosen, distortions.grayscale(rows_of(images, chosen)))
        return images

    @property
    def _widths(self) -> list[int]:
        """Draws of an image: flipping, grayscale, RandAugment, and each distortion with its probability."""
        distorting = [1 + draws for _, draws, _ in {**GEOMETRIC, **PHOTOMETRIC}.values()]
        # Only where they are used: trainings without crops have the draws that they had before there were any.
        crops = [(1 + draws) * (self.probabilities[name] > 0) for name, (_, draws, _) in CROPS.items()]
        return [1, 1, self.randaugment.draws_per_image, *distorting, *crops]

    def _chosen(self, name: str, draws: np.ndarray, device: torch.device) -> Tensor:
        """Rows of the images that the first column of draws selects, on the device."""
        return on_device(np.flatnonzero(draws[:, 0] < self.probabilities[name]), device)

    def state_dict(self) -> dict[str, Any]:
        """All that a later, bit-exact continuation needs, beside the settings."""
        return {"strength": self.strength, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.strength = state["strength"]
        self.generator.set_state(state["generator"])

    def _distort(self, name: str, images: Tensor, draws: np.ndarray) -> None:
        """In place, the images that the first column of draws selects."""
        amplitude = self.amplitudes[name] * self.strength
        if amplitude == 0 or self.probabilities[name] == 0:
            return
        rows = self._chosen(name, draws, images.device)
        if len(rows) == 0:
            return
        function = {**CROPS, **GEOMETRIC, **PHOTOMETRIC}[name][0]
        parameters = on_device(draws[:, 1:], images.device).index_select(0, rows)
        size = CHUNK if images.device.type == "cpu" else len(rows)
        for chunk, chosen in zip(rows.split(size), parameters.split(size)):
            put_rows(images, chunk, function(rows_of(images, chunk), chosen, amplitude))


def _checked_amplitudes(given: dict[str, float]) -> dict[str, float]:
    amplitudes = {name: amplitude for name, (_, _, amplitude) in {**GEOMETRIC, **PHOTOMETRIC, **CROPS}.items()}
    for name, amplitude in given.items():
        if name not in amplitudes:
            raise ValueError(f"amplitudes: {name!r} does not exist; choose one of {', '.join(amplitudes)}")
        largest = {"low_resolution": 0.95, "random_resized_crop": 0.95, "cutout": 1.0}.get(name, float("inf"))
        if not 0 <= amplitude <= largest:
            raise ValueError(f"amplitudes: {name} = {amplitude!r} must lie in [0, {largest}]")
    return amplitudes | given
