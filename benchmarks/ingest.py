"""Training fed by Ray tasks (read, decode, augment) against the same training fed from memory.

    python -m benchmarks.ingest --steps 60 --batch 64
    python -m benchmarks.ingest --sleeping 1 3 7
    python -m benchmarks.ingest --stages

By default both run the same step (MoCo, one thread) in this process. From memory: prepared batches, nothing to decode
or augment. The readers run on the other cores. Prints samples per second of each, their ratio with its range over
rounds, and the time spent waiting for data.

`--sleeping` measures whether so many readers (and the one that is consumed) work side by side: each sleeps instead of
computing, so cores do not matter. Prints how many times the rate of a single one they reach.

`--stages` measures the work of feeding a GPU on one core of this process: reading images as they are stored, decoding
them, and augmenting them on the CPU, in images per second.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from facelib.config import Settings, load_settings
from facelib.data import (
    MANIFEST_NAME,
    Face,
    Folder,
    ImageSpec,
    encode_image,
    faces_to_table,
    make_manifest,
    write_part,
)
from ray_jobs.cluster import cluster
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.device_prefetch import DevicePrefetcher
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import Batch, LoaderSpec, load_batches, read_window
from ray_jobs.training.methods import METHODS
from ray_jobs.training.optim import build_optimizer
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec

SLEEP_S = 0.2  # a batch of --sleeping


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    parser.add_argument("--sleeping", type=int, nargs="+", help="numbers of readers that sleep")
    parser.add_argument("--stages", action="store_true", help="rates of reading, decoding and augmentation")
    arguments = parser.parse_args()
    settings = load_settings(arguments.config)
    torch.set_num_threads(1)
    if arguments.sleeping:
        measure_sleeping(settings, arguments.sleeping)
        return
    if arguments.stages:
        measure_stages(settings)
        return
    with tempfile.TemporaryDirectory() as folder, cluster(settings):
        faces = StoredFaces(noise_dataset(folder, identities=max(512, arguments.batch * 4)))
        method = METHODS["ssl"](settings, faces.identities).to(memory_format=torch.channels_last).train()
        optimizer = build_optimizer(method.parameters(), settings.train)
        sampler = DistributedBatchSampler(
            faces, method.sampling, arguments.batch, settings.data.window_row_groups, 0, 1
        )
        augmentation = AugmentationSpec(settings.augment, 10_000)
        ratios = []
        for number in range(arguments.rounds):
            stream = load_batches(faces, sampler, 0, 0, arguments.steps + 8, settings.data, augmentation)
            held = [next(stream) for _ in range(8)]  # the readers are up, and this is the memory of the other side
            memory, _ = _rate(method, optimizer, settings, (held[i % 8] for i in range(arguments.steps)))
            fed, waited = _rate(method, optimizer, settings, stream)
            ratios.append(fed / memory)
            print(f"round {number + 1}: memory {memory:.0f}, Ray {fed:.0f} pairs/s, {waited:.1%} waiting", flush=True)
    spread = f"{min(ratios):.3f}..{max(ratios):.3f}"
    print(f"Ray ingest / memory: {np.median(ratios):.3f} ({spread}); batch {arguments.batch}, {settings.model.name}")


class Sleeper:
    """Images as they are, later."""

    strength = 1.0

    def __call__(self, images: Any, generator: Any) -> Any:
        """Sleep for a batch."""
        time.sleep(SLEEP_S)
        return images


@dataclass(frozen=True)
class Sleep(AugmentationSpec):
    """In place of augmentation: every batch takes `SLEEP_S`."""

    def build(self) -> Any:
        """The operation."""
        return Sleeper()


def measure_sleeping(settings: Settings, readers: list[int]) -> None:
    """Print the rate of so many readers and one more, as a multiple of one's."""
    with tempfile.TemporaryDirectory() as folder, cluster(settings):
        faces = StoredFaces(noise_dataset(folder, identities=1024, images=2))
        sampler = DistributedBatchSampler(faces, SamplingSpec(views=1), 8, 8, 0, 1)  # windows of 32 batches
        for count in readers:
            data = settings.data.model_copy(update={"readers": count, "cpus_per_reader": 0.05})
            tasks, window = count + 1, 32
            stream: Any = load_batches(faces, sampler, 0, 0, 8 * tasks * window, data, Sleep(settings.augment, 1))
            for _ in range(tasks * window):  # All have started, and their first windows are read.
                next(stream)
            begin, batches = time.perf_counter(), 4 * tasks * window
            for _ in range(batches):
                next(stream)
            rate = batches * SLEEP_S / (time.perf_counter() - begin)
            print(f"{count} readers: {rate:.2f} times one, {rate / tasks:.2f} of {tasks}", flush=True)
            stream.close()


def measure_stages(settings: Settings) -> None:
    """Print images per second of what feeds a GPU, on one core."""
    with tempfile.TemporaryDirectory() as folder:
        faces = StoredFaces(noise_dataset(folder, identities=1024, images=8))
        sampling = SamplingSpec(views=2)
        sampler = DistributedBatchSampler(faces, sampling, 256, 16, 0, 1)
        augmentation = AugmentationSpec(settings.augment, 1)
        spec = LoaderSpec(sampling, 256, sampler.steps_per_pass, augmentation, encoded=True)
        begin = time.perf_counter()
        batches: list[Any] = [b for w in sampler.windows(0, 0, 4) for b in read_window(faces, w, spec)]
        images = sum(len(b.sizes) for b in batches)
        print(f"reading, as stored: {images / (time.perf_counter() - begin):,.0f} images/s")
        prefetcher = DevicePrefetcher(iter([]), torch.device("cpu"), augmentation, faces.identities)
        begin = time.perf_counter()
        decoded = [prefetcher.decode(b) for b in batches]
        print(f"decoding: {images / (time.perf_counter() - begin):,.0f} images/s")
        begin = time.perf_counter()
        for pixels, batch in zip(decoded, batches, strict=True):
            prefetcher.augmented(pixels, batch)
        print(f"augmentation on the CPU: {images / (time.perf_counter() - begin):,.0f} images/s")


def _rate(
    method: nn.Module, optimizer: torch.optim.Optimizer, settings: Settings, batches: Iterator[Batch]
) -> tuple[float, float]:
    """(pairs per second, share of time waiting for a batch)."""
    pairs, waited, started = 0, 0.0, time.perf_counter()
    while True:
        begin = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - begin
        if batch is None:
            break
        images = torch.from_numpy(batch.images.copy()).transpose(0, 1).flatten(0, 1)
        inputs = images.contiguous(memory_format=torch.channels_last).unflatten(0, (2, len(batch.labels)))
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.train.precision == "bfloat16"):
            result = method(inputs, torch.from_numpy(batch.labels.copy()))
        optimizer.zero_grad()
        result.loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = 1e-4
        optimizer.step()
        pairs += len(batch.labels)
    seconds = time.perf_counter() - started
    return pairs / seconds, waited / seconds


def noise_faces(identities: int, images: int) -> list[Face]:
    """Smooth noise at the size and JPEG quality of real faces: speed depends on nothing else."""
    rng = np.random.default_rng(0)
    faces = []
    for i in range(identities):
        base = np.kron(rng.integers(0, 255, (14, 14, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        for j in range(images):
            image = np.roll(base, 3 * j, axis=1)
            empty = np.zeros(0, np.float32)
            faces.append(Face(encode_image(image), i, j, 1.0, np.zeros((5, 2), np.float32), empty, "noise"))
    return faces


def noise_dataset(folder: str, identities: int, images: int = 4) -> str:
    """One part of such faces below `folder`; returns its URI."""
    target = Folder(folder).create()
    faces = noise_faces(identities, images)
    part = write_part(target, "part-0000000.parquet", faces_to_table(faces), len(faces), {}, "benchmark", 16)
    manifest = make_manifest(ImageSpec(template="arcface", size=112), {}, [part], {})
    target.write(MANIFEST_NAME, manifest.model_dump_json().encode())
    return folder


if __name__ == "__main__":
    main()
