"""Augmentation that takes long, for reading tasks on any node."""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from ray_jobs.training.augmentation import AugmentationSpec


@dataclass(frozen=True)
class SlowAugmentation(AugmentationSpec):
    """Changes nothing, takes `seconds` for every batch and leaves a file in `folder` after each."""

    folder: str = ""
    seconds: float = 0.0

    def build(self):
        return _Sleep(self)


class _Sleep:
    def __init__(self, spec):
        self.spec, self.strength = spec, 1.0

    def __call__(self, images, generator=None):
        time.sleep(self.spec.seconds)
        (Path(self.spec.folder) / uuid.uuid4().hex).touch()
        return images
