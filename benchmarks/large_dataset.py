"""A dataset larger than memory: written part by part, then read for one epoch of pairs as in training.

    python -m benchmarks.memory --limit-gb 3 -- benchmarks.large_dataset --gigabytes 9 --folder runs/large

Nothing is trained, so that reading is all that takes time and memory. The images of the parts are the same; identities
and files are not. Prints wall-clock rates; run it under `benchmarks/memory.py` to measure memory. The folder is
deleted at the end.
"""

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.ingest import noise_faces
from facelib.config import load_settings
from facelib.data import MANIFEST_NAME, Folder, ImageSpec, faces_to_table, make_manifest, write_part
from ray_jobs.cluster import cluster
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import load_batches
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec

IDENTITIES = 1024  # of a part


def main() -> None:
    """Write, read, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1)
    parser.add_argument("--folder", default="runs/large_dataset", help="folder of the dataset; deleted at the end")
    parser.add_argument("--images", type=int, default=6, help="of each identity")
    parser.add_argument("--object-store-gb", type=float, default=0.5)
    arguments = parser.parse_args()
    settings = load_settings(
        None, [f"ray.object_store_gb={arguments.object_store_gb}", "data.readers=2", "data.read_ahead=4"]
    )
    if Path(arguments.folder).exists():
        parser.error(f"--folder {arguments.folder}: exists already, and would be deleted at the end; name a new one")
    target = Folder(arguments.folder).create()
    try:
        begin = time.perf_counter()
        images = _write(target, arguments.images, arguments.gigabytes * 1e9)
        seconds = time.perf_counter() - begin
        size = sum(p.stat().st_size for p in Path(arguments.folder).iterdir())
        print(f"wrote {images:,} faces, {size / 1e9:.2f} GB: {images / seconds:,.0f} faces/s", flush=True)
        with cluster(settings):
            faces, begin = StoredFaces(arguments.folder), time.perf_counter()
            sampler = DistributedBatchSampler(faces, SamplingSpec(views=2), 128, settings.data.window_row_groups, 0, 1)
            pairs, seen = 0, np.zeros(sampler.classes, bool)
            for batch in load_batches(faces, sampler, 0, 0, sampler.steps_per_epoch, settings.data):
                pairs += len(batch.labels)
                seen[batch.labels] = True
            seconds = time.perf_counter() - begin
        print(
            f"read {pairs:,} pairs of {seen.sum():,} of {sampler.classes:,} identities: {pairs / seconds:,.0f} pairs/s"
        )
        if seen.sum() != pairs:
            raise SystemExit("somebody was seen twice")
    finally:
        shutil.rmtree(arguments.folder)


def _write(target: Folder, images: int, size: float) -> int:
    """Parts until they are so many bytes; returns the number of faces."""
    table = faces_to_table(noise_faces(IDENTITIES, images))
    identity, column = table["identity"].to_numpy(), table.column_names.index("identity")
    parts: list[Any] = []
    written = 0.0
    while written < size:
        identities = pa.array(identity + len(parts) * IDENTITIES, table["identity"].type)
        name = f"part-{len(parts):07d}.parquet"
        parts.append(
            write_part(target, name, table.set_column(column, "identity", identities), len(table), {}, "benchmark")
        )
        written += Path(target.path, name).stat().st_size
    manifest = make_manifest(ImageSpec(template="arcface", size=112), {}, parts, {})
    target.write(MANIFEST_NAME, manifest.model_dump_json().encode())
    return manifest.images


if __name__ == "__main__":
    main()
