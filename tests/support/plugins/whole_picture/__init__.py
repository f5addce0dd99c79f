"""A detector that finds a face in any picture: where the template has it."""

import numpy as np

from facelib.alignment import TEMPLATES, Detections


class WholePicture:
    def detect(self, images):
        found = []
        for image in images:
            side = image.shape[0]
            box = np.array([[0, 0, side, side]], np.float32)
            landmarks = np.asarray(TEMPLATES["arcface"], np.float32)[None] * (side / 112)
            found.append(Detections(box, np.ones(1, np.float32), landmarks))
        return found
