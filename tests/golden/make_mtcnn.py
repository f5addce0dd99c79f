"""Writes mtcnn.npz: what the PyPI package `mtcnn` 1.0.0 computes on TensorFlow, operation by operation.

    pip install 'mtcnn[tensorflow]==1.0.0' matplotlib opencv-python
    python tests/golden/make_mtcnn.py

Only for making the file: neither TensorFlow nor the package's code is needed to test against it.
"""

from pathlib import Path

import cv2
import matplotlib.cbook
import matplotlib.image
import mtcnn
import numpy as np
import tensorflow as tf
from mtcnn.stages import StageONet, StagePNet, StageRNet
from mtcnn.utils.images import extract_patches


def main() -> None:
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:  # a work of the US Navy, in the public domain
        portrait = matplotlib.image.imread(file, format="jpg")
    small = cv2.resize(portrait, (214, 250), interpolation=cv2.INTER_AREA)
    tiny = cv2.resize(small, (107, 125), interpolation=cv2.INTER_AREA)
    crowd = small.copy()
    crowd[125:, :107], crowd[125:, 107:] = tiny, tiny[:, ::-1]
    images = np.stack([small, np.ascontiguousarray(small[:, ::-1]), small // 2 + 100, crowd])
    faces = mtcnn.MTCNN().detect_faces(list(images), output_type="numpy", box_format="xyxy", fit_to_image=False)

    pixels = (images.astype(np.float32) - 127.5) / 128
    levels = [tf.image.resize(pixels, size, method="area").numpy() for size in ((150, 128), (41, 35), (13, 12))]
    boxes = np.array([[0, 75, 49, 146, 138], [1, -12, 20.5, 60, 90.25], [2, 150, 170, 260, 280], [3, 3, 120, 110, 249]])
    stages = {"pnet": StagePNet(), "rnet": StageRNet(), "onet": StageONet()}
    inputs = {"pnet": levels[1], "rnet": extract_patches(tf.constant(pixels), boxes, (24, 24)).numpy()}
    inputs["onet"] = extract_patches(tf.constant(pixels), boxes, (48, 48)).numpy()
    arrays = {"images": images, "faces": faces, "boxes": boxes}
    arrays |= {f"level{number}": level[:, ::3, ::3] for number, level in enumerate(levels)}
    for name, stage in stages.items():
        arrays[f"{name}_input"] = inputs[name]
        for number, output in enumerate(stage.model(inputs[name])):
            arrays[f"{name}_output{number}"] = output.numpy()
    np.savez_compressed(Path(__file__).with_name("mtcnn.npz"), **arrays)


if __name__ == "__main__":
    main()
