"""Training fed by Ray tasks (read, decode, augment) against the same training fed from memory.

    python benchmarks/ingest.py --steps 60 --batch 64

Both run the same step (MoCo, one thread) in this process. From memory: prepared batches, nothing to decode or
augment. The readers run on the other cores. Prints samples per second of each, their ratio with its range over rounds,
and the time spent waiting for data.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator

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
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import Batch, load_batches
from ray_jobs.training.methods import METHODS
from ray_jobs.training.optim import build_optimizer
from ray_jobs.training.sampler import DistributedBatchSampler


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="measured steps of each round")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--config", default="configs/quickstart.yaml")
    arguments = parser.parse_args()
    settings = load_settings(arguments.config)
    torch.set_num_threads(1)
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
