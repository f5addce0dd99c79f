"""Published lists of augmentations by torchvision's v2 transforms, one image at a time on a CPU.

`moco_v1` is what MoCo's first version and USynthFace's baseline use (InstDisc, arXiv 1805.01978), `moco_v2` the list of
MoCo v2 (arXiv 2003.04297), `torchvision_randaugment` a flip and torchvision's own RandAugment, whose fourteen
operations differ from USynthFace's thirteen. For comparisons: several times slower than `FaceAugmentation`.

Shapes: N batch, H height, W width.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facelib.augmentation.operations import check_batch
from facelib.augmentation.rng import new_generator, uniforms

POLICIES = ("moco_v1", "moco_v2", "torchvision_randaugment")


class TorchvisionAugmentation:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, H, W] on the CPU; every image has a random seed of its own.

    Args:
        policy: one of `POLICIES`.
        flip: probability of flipping.
        num_ops, magnitude: of torchvision's RandAugment.
        strength: in [0, 1], may be set between batches. Scales the magnitude of RandAugment, to whole numbers; the
            lists of MoCo have none.
        seed: of the stream of draws; None takes entropy from the system.

    Raises:
        ValueError: an unknown policy, or a number out of range.
    """

    def __init__(
        self,
        policy: str,
        flip: float = 0.5,
        num_ops: int = 4,
        magnitude: float = 16,
        strength: float = 1.0,
        seed: int | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy = {policy!r}: choose one of {', '.join(POLICIES)}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength = {strength!r}: must lie in [0, 1]")
        self.policy, self.flip, self.num_ops, self.magnitude = policy, flip, num_ops, magnitude
        self.strength = strength
        self.generator = new_generator(seed)

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Augment a batch with draws from `generator` (default: its own stream). The images are left untouched.

        Raises:
            ValueError: images are not uint8 [N, 3, H, W].
        """
        check_batch(images)
        return self.transform(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """What `transform` needs for `count` images: uniform numbers float64 [count, 1]."""
        return uniforms(count, 1, generator or self.generator)

    def transform(self, images: Tensor, draws: Tensor | np.ndarray) -> Tensor:
        """Augment with given draws, each the seed of its image. torch's own generator is left as it was."""
        bins = round(self.magnitude * self.strength)
        transform = _transform(self.policy, self.flip, self.num_ops, bins, images.shape[2], images.shape[3])
        result = torch.empty_like(images, memory_format=torch.contiguous_format)
        with torch.random.fork_rng(devices=[]):
            for image, seed, target in zip(images, (np.asarray(draws)[:, 0] * 2**53).astype(np.int64).tolist(), result):
                torch.manual_seed(seed)
                target.copy_(transform(image))
        return result

    def state_dict(self) -> dict[str, Any]:
        """All that a later, bit-exact continuation needs, beside the settings."""
        return {"strength": self.strength, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.strength = state["strength"]
        self.generator.set_state(state["generator"])


@functools.lru_cache(maxsize=32)
def _transform(
    policy: str, flip: float, num_ops: int, magnitude: int, height: int, width: int
) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2

    crop, mirror = v2.RandomResizedCrop((height, width), scale=(0.2, 1.0)), v2.RandomHorizontalFlip(flip)
    steps = {
        "moco_v1": lambda: [crop, v2.RandomGrayscale(0.2), v2.ColorJitter(0.4, 0.4, 0.4, 0.4), mirror],
        "moco_v2": lambda: [
            crop,
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
            # The standard deviations of MoCo v2 are pixels of images of 224; torchvision needs the kernel's size too.
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], 0.5),
            mirror,
        ],
        "torchvision_randaugment": lambda: [mirror, v2.RandAugment(num_ops, magnitude)],
    }[policy]()
    composed: Callable[[Tensor], Tensor] = v2.Compose(steps)
    return composed
