"""Whether generation scales with the cluster: throughput and driver time against the number of generator actors.

    python benchmarks/generation_scaling.py [--actors 1 4 16 48] [--parts 24] [--seconds 2.0] [--image-bytes 20000]

A local Ray cluster that says it has 64 CPUs, generators that sleep as long as a slow network computes, aligners that
encode nothing, and the real writer of parts: what is measured is Ray Data's scheduling, the path of the data and the
driver. Driver CPU is that of this process, a part, at the smallest number of actors, for each size of an image.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facelib.config import Settings, load_settings
from facelib.data import SCHEMA, Face, PartInfo, faces_to_table
from ray_jobs.actors import ActorStage, GroupStage, stream_rows
from ray_jobs.datasets.generation import AlignedChunk, Chunk
from ray_jobs.datasets.writing import PartWriter

CHUNKS, IDENTITIES, IMAGES = 8, 8, 4  # a part of 64 identities, 256 faces


class SleepingGenerator:
    """Takes `seconds` for a chunk and returns as many bytes as its images would have."""

    def __init__(self, seconds: float, image_bytes: int) -> None:
        self.seconds, self.image_bytes = seconds, image_bytes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {**row, "images": bytes(self.image_bytes * row["count"] * IMAGES)}


class PassingAligner:
    """A face of 5 KB for each image."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        landmarks, factors = np.zeros((5, 2), np.float32), np.zeros(8, np.float32)
        faces = [
            Face(bytes(5000), identity, index, 1.0, landmarks, factors, "sleeping")
            for identity in range(row["first"], row["first"] + row["count"])
            for index in range(IMAGES)
        ]
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(faces_to_table(faces))
        chunk = {name: row[name] for name in ("part", "first", "count", "first_image")}
        return {**chunk, "table": sink.getvalue().to_pybytes(), "rejected": "{}"}


def main() -> None:
    arguments = _arguments()
    import ray

    ray.init(num_cpus=64, include_dashboard=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    for actors in arguments.actors:
        rate, _ = measure(actors, arguments.parts, arguments.seconds, 20_000)
        ideal = actors * IDENTITIES * IMAGES / arguments.seconds
        print(f"{actors:3d} actors: {rate:8.1f} images/s, {rate / ideal:.2f} of what they can make", flush=True)
    for size in arguments.image_bytes:
        _, driver = measure(arguments.actors[0], arguments.parts, 0.5, size)
        print(f"driver: {driver * 1000:.0f} ms of CPU a part with images of {size:,} bytes", flush=True)


def measure(actors: int, parts: int, seconds: float, image_bytes: int) -> tuple[float, float]:
    """(images/s from the first part to the last, driver CPU seconds a part).

    Every actor makes the same number of chunks, so that none waits for another at the end.
    """
    overrides = [f"generate.actors={actors}", "generate.cpus_per_actor=1", f"align.actors={max(1, actors // 16)}"]
    settings = load_settings(None, [*overrides, "align.cpus_per_actor=1"])
    count = max(parts, actors * 2)
    rows = [
        asdict(Chunk(part, (part * CHUNKS + chunk) * IDENTITIES, IDENTITIES))
        for part in range(count)
        for chunk in range(CHUNKS)
    ]
    stages = (
        ActorStage(SleepingGenerator, (seconds, image_bytes), "generate", settings.generate),
        ActorStage(PassingAligner, (), "align", settings.align),
    )
    with tempfile.TemporaryDirectory() as folder:
        done, cpu = [], 0.0
        for _ in _write(rows, stages, settings, folder):
            done.append(time.monotonic())
            cpu = cpu or time.process_time()
        driver = (time.process_time() - cpu) / (count - 1)
        assert len(list(Path(folder).glob("part-*"))) == count
    images = CHUNKS * IDENTITIES * IMAGES
    # The first parts arrive together, when all actors have started: count from then on.
    start = min(len(done) - 2, actors // CHUNKS)
    return (len(done) - 1 - start) * images / (done[-1] - done[start]), driver


def _write(
    rows: list[dict[str, Any]], stages: tuple[ActorStage, ...], settings: Settings, folder: str
) -> Iterator[PartInfo]:
    writer = PartWriter(folder, "benchmark", IMAGES)

    def write(group: list[dict[str, Any]]) -> dict[str, str]:
        return {"info": writer([AlignedChunk.from_row(row) for row in group]).model_dump_json()}

    for row in stream_rows(rows, stages, settings, GroupStage(write, CHUNKS)):
        yield PartInfo.model_validate_json(row["info"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 4, 16, 48], help="generator actors")
    parser.add_argument("--parts", type=int, default=24, help="parts of 256 faces, at least")
    parser.add_argument("--seconds", type=float, default=2.0, help="a generator's time for a chunk of 32 images")
    parser.add_argument("--image-bytes", type=int, nargs="+", default=[20_000, 500_000], help="size of a raw image")
    return parser.parse_args()


if __name__ == "__main__":
    main()
