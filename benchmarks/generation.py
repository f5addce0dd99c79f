"""Throughput of the built-in face generator on one core, from latents to pixels, against two baselines.

    python benchmarks/generation.py --identities 12 --images 6 --repeats 5

Three variants on the same latents, in CPU seconds of this process (one thread), median and range over the repeats:
- batched: one `render` call, an identity's images share its head and skin;
- one by one: one call per image, nothing shared;
- triangles: one call per image and a textbook z-buffer that loops over triangles (fewer images, because it is slow).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np

from facelib.synthesis import FaceGenerator, build_generator
from facelib.synthesis.morphable import renderer
from facelib.synthesis.morphable.raster import Visible


def main() -> None:
    arguments = _arguments()
    cv2.setNumThreads(1)
    generator = build_generator("morphable", image_size=arguments.image_size)
    identities = np.repeat(np.arange(arguments.identities), arguments.images)
    indices = np.tile(np.arange(arguments.images), arguments.identities)
    few = np.arange(0, identities.size, max(1, identities.size // 3))[:3]
    _together(generator, identities[:2], indices[:2])

    print(f"{platform.processor() or platform.machine()}, OpenCV {cv2.__version__}, numpy {np.__version__}")
    print(f"{arguments.identities} identities of {arguments.images} images, {arguments.image_size} pixels")
    together = _measure("batched", _together, generator, identities, indices, arguments.repeats)
    single = _measure("one by one", _one_by_one, generator, identities, indices, arguments.repeats)
    slow = _measure("triangles", _triangles, generator, identities[few], indices[few], min(2, arguments.repeats))
    for name, rates in (("one by one", single), ("triangles", slow)):
        ratios = [a / b for a in together for b in rates]
        spread = f"range {min(ratios):.1f} to {max(ratios):.1f}"
        print(f"batched is {np.median(ratios):.1f} times as fast as {name} ({spread})")


_Way = Callable[[FaceGenerator, np.ndarray, np.ndarray], object]


def _measure(
    name: str, way: _Way, generator: FaceGenerator, identities: np.ndarray, indices: np.ndarray, repeats: int
) -> list[float]:
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        way(generator, identities, indices)
        rates.append(identities.size / (time.process_time() - start))
    print(f"{name}: median {np.median(rates):.2f} images/s, range {min(rates):.2f} to {max(rates):.2f}")
    return rates


def _together(generator: FaceGenerator, identities: np.ndarray, indices: np.ndarray) -> np.ndarray:
    codes = generator.identity_codes(0, identities)
    return generator.render(codes, generator.image_factors(0, identities, indices))


def _one_by_one(generator: FaceGenerator, identities: np.ndarray, indices: np.ndarray) -> list[np.ndarray]:
    return [_together(generator, identities[n : n + 1], indices[n : n + 1]) for n in range(identities.size)]


def _triangles(generator: FaceGenerator, identities: np.ndarray, indices: np.ndarray) -> None:
    original = renderer.rasterise
    renderer.rasterise = _triangle_rasterise  # type: ignore[assignment]
    try:
        _one_by_one(generator, identities, indices)
    finally:
        renderer.rasterise = original


def _triangle_rasterise(
    screen: np.ndarray, size: int, up: int, patches: tuple[tuple[slice, slice], ...], insides: bool = False
) -> Visible:
    """Textbook rasterizer: for each triangle its bounding box, barycentric weights, depth test."""
    u, v = np.zeros((size, size), np.float32), np.zeros((size, size), np.float32)
    depth = np.full((size, size), 1e6, np.float32)
    for rows, columns in patches:
        for row in range(rows.start, rows.stop - 1):
            for column in range(columns.start, columns.stop - 1):
                a, b = (row, column), (row, column + 1)
                c, d = (row + 1, column), (row + 1, column + 1)
                for corners in ((a, b, c), (b, d, c)):
                    _draw_triangle([screen[:, i, j] for i, j in corners], corners, u, v, depth)
    return Visible(depth < 1e5, u, v, depth)


def _draw_triangle(
    points: list[np.ndarray], corners: tuple[tuple[int, int], ...], u: np.ndarray, v: np.ndarray, depth: np.ndarray
) -> None:
    size = depth.shape[0]
    (x0, y0, z0), (x1, y1, z1), (x2, y2, z2) = points
    left, right = max(0, int(min(x0, x1, x2))), min(size - 1, int(max(x0, x1, x2)))
    top, bottom = max(0, int(min(y0, y1, y2))), min(size - 1, int(max(y0, y1, y2)))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    if left > right or top > bottom or abs(area) < 1e-9:
        return
    py, px = np.mgrid[top : bottom + 1, left : right + 1] + 0.5
    w1 = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
    w2 = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
    w0 = 1 - w1 - w2
    z = w0 * z0 + w1 * z1 + w2 * z2
    box = (slice(top, bottom + 1), slice(left, right + 1))
    inside = (w0 >= 0) & (w1 >= 0) & (w2 >= 0) & (z < depth[box])
    depth[box][inside] = z[inside]
    rows, columns = zip(*corners)
    v[box][inside] = (w0 * rows[0] + w1 * rows[1] + w2 * rows[2])[inside]
    u[box][inside] = (w0 * columns[0] + w1 * columns[1] + w2 * columns[2])[inside]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", type=int, default=12)
    parser.add_argument("--images", type=int, default=6, help="per identity")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
