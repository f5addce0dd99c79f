"""Detection rate and landmark error of face detectors on the built-in generator's faces.

    python benchmarks/detectability.py --images 240 --detectors retinaface mtcnn

Prints, for faces with |yaw| below the limit: share detected (best score above 0.5), and the distance of detected to
projected landmarks in eye distances (median over images of the mean over five points), overall and for each point
with its mean offset (x right, y down).
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from facelib.alignment import build_detector
from facelib.synthesis import build_generator

POINTS = ("left eye", "right eye", "nose", "left mouth", "right mouth")


def main() -> None:
    arguments = _arguments()
    generator = build_generator("morphable", image_size=arguments.image_size)
    identities = np.arange(arguments.images) // arguments.per_identity + arguments.first
    indices = np.arange(arguments.images) % arguments.per_identity
    codes = generator.identity_codes(arguments.seed, identities)
    factors = generator.image_factors(arguments.seed, identities, indices)
    images = generator.render(codes, factors)
    truth = generator.landmarks(codes, factors)  # type: ignore[attr-defined]
    yaw = np.abs(generator.yaw_degrees(factors))  # type: ignore[attr-defined]
    frontal = yaw < arguments.max_yaw
    seen = f"{int(frontal.sum())} with |yaw| < {arguments.max_yaw}"
    print(f"{arguments.images} images of {arguments.image_size} pixels, {seen}")
    for name in arguments.detectors:
        _measure(name, images[frontal], truth[frontal], arguments.margin)


def _measure(name: str, images: np.ndarray, truth: np.ndarray, margin: float) -> None:
    detector = build_detector(name)
    pad = int(margin * images.shape[1])
    padded = [np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="edge") for image in images] if pad else list(images)
    start, errors, lost = time.perf_counter(), [], []
    for row, (image, points) in enumerate(zip(padded, truth)):
        found = detector.detect([image])[0]
        if len(found) == 0 or float(np.max(found.scores)) < 0.5:
            lost.append(row)
            continue
        detected = found.landmarks[int(np.argmax(found.scores))] - pad
        eye_distance = np.linalg.norm(points[1] - points[0]) + 1e-6
        errors.append((detected - points) / max(eye_distance, 0.6 * images.shape[1] * 0.255))
    offsets = np.asarray(errors)
    distance = np.linalg.norm(offsets, axis=-1)
    seconds = time.perf_counter() - start
    rate, mean = len(images) / seconds, distance.mean(1)
    print(f"{name}: detected {len(errors)}/{len(images)} = {len(errors) / len(images):.1%}, {rate:.1f} images/s")
    print(f"  landmark error, eye distances: median {np.median(mean):.3f}, 90 % {np.percentile(mean, 90):.3f}")
    for point, label in enumerate(POINTS):
        x, y = offsets[:, point].mean(0)
        print(f"  {label:12s} median {np.median(distance[:, point]):.3f}, mean offset {x:+.3f} {y:+.3f}")
    print(f"  lost rows: {lost[:20]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--per-identity", type=int, default=2)
    parser.add_argument("--first", type=int, default=0, help="first identity")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-yaw", type=float, default=45.0, help="degrees")
    parser.add_argument(
        "--margin", type=float, default=0.0, help="border added before detection, as a fraction of the size"
    )
    parser.add_argument("--detectors", nargs="+", default=["retinaface", "mtcnn"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
