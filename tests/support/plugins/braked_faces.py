"""Faces that are made slowly while a file exists, so that a job can be killed in the middle."""

import time
from pathlib import Path

from facelib.synthesis.morphable import MorphableGenerator


class BrakedFaces(MorphableGenerator):
    """Those of the morphable generator; every call takes a second more while the file `brake` exists."""

    name = "braked"

    def __init__(self, brake: str) -> None:
        super().__init__()
        self.brake = Path(brake)

    def render(self, codes, factors):
        if self.brake.exists():
            time.sleep(1)
        return super().render(codes, factors)
