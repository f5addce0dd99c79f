"""Small face datasets for tests: a smooth random pattern is an identity; its images are shifted and lit differently."""

from pathlib import Path

import cv2
import numpy as np

from facelib.data import (
    MANIFEST_NAME,
    SPEC_NAME,
    Face,
    FaceDataset,
    Folder,
    ImageSpec,
    encode_image,
    faces_to_table,
    make_manifest,
    write_part,
)
from facelib.data.fingerprint import spec_bytes, spec_fingerprint


def pattern(identity: int, index: int, size: int = 112) -> np.ndarray:
    """uint8 [size, size, 3], a function of (identity, index)."""
    base = np.random.default_rng([7, identity]).uniform(0, 255, (6, 6, 3)).astype(np.float32)
    rng = np.random.default_rng([7, identity, index])
    image = cv2.resize(base, (size + 16, size + 16), interpolation=cv2.INTER_CUBIC)
    top, left = rng.integers(0, 16, 2)
    image = image[top : top + size, left : left + size] * rng.uniform(0.7, 1.2) + rng.uniform(-20, 20)
    return np.clip(image, 0, 255).astype(np.uint8)


def write_dataset(
    uri: str | Path,
    identities: int = 24,
    images: int = 4,
    per_part: int = 8,
    per_group: int = 4,
    first: int = 0,
    size: int = 112,
    template: str = "arcface",
) -> FaceDataset:
    """A finished face dataset of patterns."""
    folder = Folder(str(uri)).create()
    spec = {"identities": identities, "images": images, "first": first}
    folder.write(SPEC_NAME, spec_bytes(spec))
    parts = []
    for number, begin in enumerate(range(first, first + identities, per_part)):
        faces = [
            Face(
                encode_image(pattern(i, j, size)),
                i,
                j,
                0.9,
                np.zeros((5, 2), np.float32),
                np.zeros(3, np.float32),
                "test",
            )
            for i in range(begin, min(begin + per_part, first + identities))
            for j in range(images)
        ]
        table = faces_to_table(faces)
        parts.append(
            write_part(folder, f"part-{number:07d}.parquet", table, len(faces), {}, spec_fingerprint(spec), per_group)
        )
    manifest = make_manifest(ImageSpec(template=template, size=size), spec, parts, {})
    folder.write(MANIFEST_NAME, manifest.model_dump_json().encode())
    return FaceDataset(str(uri))
