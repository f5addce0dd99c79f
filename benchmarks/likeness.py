"""Variation between a generator's identities and within each of them, compared with real faces.

    python benchmarks/likeness.py --real lfw_dev_train.bin+lfw_dev_test.bin [--generator morphable] [--identities 600]

Both sets are aligned, detected again by RetinaFace and measured in the same way (`facelib.inspection`). The genuine
pairs of a set split each measure's variance: within identities (half the mean squared difference) and between them (the
rest). Prints mean, total, within and between for both sets, of faces turned by less than 25 degrees.
"""

import argparse

import cv2
import numpy as np
import torch

from facelib.alignment import AlignedFace, Aligner, build_detector
from facelib.alignment.detector import FaceDetector
from facelib.data import decode_image
from facelib.inspection import measure_faces
from facelib.sources.pair_sets import load_pair_set
from facelib.synthesis import build_generator

MARGIN = 40  # pixels added round a crop before detection
Spreads = dict[str, tuple[float, float, float, float]]  # measure -> mean, total, within, between


def main() -> None:
    """Measure both and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, help="a .bin verification set, or several joined by +")
    parser.add_argument("--generator", default="morphable")
    parser.add_argument("--identities", type=int, default=600, help="generated identities, two images each")
    parser.add_argument("--seed", type=int, default=77)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    detector = build_detector("retinaface")
    drawn = spreads(*generated(arguments, detector), detector)
    pairs = load_pair_set(arguments.real)
    genuine = np.asarray(pairs.issame, bool)
    photographs = np.stack([decode_image(image) for image in pairs.images])
    real = spreads(photographs, pairs.first[genuine], pairs.second[genuine], detector)
    print(f"{'':14s}{arguments.generator:>36s}{'real':>36s}")
    print(f"{'':14s}" + "".join(f"{name:>9s}" for name in ("mean", "total", "within", "between")) * 2)
    for measure in drawn:
        print(f"{measure:14s}" + "".join(f"{value:9.3f}" for value in drawn[measure] + real[measure]))


def generated(arguments: argparse.Namespace, detector: FaceDetector) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aligned crops of identities with both images detected, and the rows of each pair."""
    generator = build_generator(arguments.generator)
    identities = np.repeat(np.arange(arguments.identities), 2)
    indices = np.tile([0, 1], arguments.identities)
    codes = generator.identity_codes(arguments.seed, identities)
    factors = generator.image_factors(arguments.seed, identities, indices)
    aligned = Aligner(detector).align(list(generator.render(codes, factors)))
    print(f"{sum(isinstance(face, AlignedFace) for face in aligned)} of {len(aligned)} images aligned")
    pairs = [pair for pair in zip(aligned[::2], aligned[1::2]) if all(isinstance(face, AlignedFace) for face in pair)]
    crops = [face.image for pair in pairs for face in pair if isinstance(face, AlignedFace)]
    rows = np.arange(len(crops))
    return np.stack(crops), rows[::2], rows[1::2]


def spreads(crops: np.ndarray, first: np.ndarray, second: np.ndarray, detector: FaceDetector) -> Spreads:
    """Measures of crops [N, S, S, 3], split by genuine pairs of rows [P]."""
    points = np.stack([landmarks(crop, detector) for crop in crops])
    found = np.isfinite(points).all((1, 2))
    points[~found] = points[found].mean(0)
    measures = measure_faces(crops, points)
    eyes, mouth = points[:, :2].mean(1), points[:, 3:].mean(1)
    unit = np.linalg.norm(points[:, 1] - points[:, 0], axis=1)
    measures["eyes to nose"] = np.linalg.norm(points[:, 2] - eyes, axis=1) / unit
    measures["nose to mouth"] = np.linalg.norm(points[:, 2] - mouth, axis=1) / unit
    measures["eyes to mouth"] = np.linalg.norm(eyes - mouth, axis=1) / unit
    kept = found & (np.abs(measures["yaw"]) < 25)
    both = kept[first] & kept[second]
    result = {}
    for name, values in measures.items():
        total = float(values[kept].std())
        within = float(np.sqrt(0.5 * np.mean((values[first[both]] - values[second[both]]) ** 2)))
        between = float(np.sqrt(max(0.0, total**2 - within**2)))
        result[name] = float(values[kept].mean()), total, within, between
    return result


def landmarks(crop: np.ndarray, detector: FaceDetector) -> np.ndarray:
    """The best face's five points [5, 2] in a crop; NaN when there is none."""
    padded = np.pad(crop, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="edge")
    found = detector.detect([padded])[0]
    if len(found) == 0:
        return np.full((5, 2), np.nan)
    return np.asarray(found.landmarks[int(np.argmax(found.scores))], np.float64) - MARGIN


if __name__ == "__main__":
    main()
