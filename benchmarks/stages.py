"""Throughput of every stage on one and two cores, with one, two and four actors, readers or workers: images per second.

    python -m benchmarks.stages --cores 1 2 --actors 1 2 4 --seconds 10

Each number of cores is measured in a new process pinned to them, Ray included. Generator, aligner and embedding actors
are the pipeline's, busy all the time, on work from the object store. Readers are the training's (decoding and
augmentation of both views), with a consumer that drops the batches. Training is the job itself: DDP workers of one
thread, `configs/quickstart.yaml`'s network, last epoch. A rate that falls with more actors than cores shows the cost of
sharing a core.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import ray

from benchmarks.face_actors import calls_a_second
from benchmarks.ingest import noise_dataset
from facelib.config import Settings, load_settings
from facelib.models import save_backbone
from ray_jobs.cluster import cluster
from ray_jobs.datasets.generation import AlignerActor, Chunk, GeneratorActor
from ray_jobs.embedding.stream import CropEmbeddingActor
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import load_batches
from ray_jobs.training.methods import backbone_kwargs, new_backbone
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec

CONFIG = "configs/quickstart.yaml"
PICTURES, CROPS = 8, 128  # of a call


def generation(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """128-pixel renders."""
    actors = [ray.remote(num_cpus=0.1)(GeneratorActor).remote(0, settings.generate) for _ in range(count)]
    rows = [asdict(Chunk(0, first, 1)) for first in range(10_000)]
    return calls_a_second(actors, rows, seconds) * settings.generate.images_per_identity


def alignment(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """RetinaFace, choice, warp and JPEG of such renders."""
    made = [GeneratorActor(0, settings.generate)(asdict(Chunk(0, first, 1))) for first in range(PICTURES)]
    arguments = settings.align, 95
    actors = [ray.remote(num_cpus=0.1)(AlignerActor).remote(*arguments) for _ in range(count)]
    rate = calls_a_second(actors, [ray.put(chunk) for chunk in made], seconds)
    return rate * settings.generate.images_per_identity


def reading(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """Readers: Parquet, decoding, augmentation; images, two of each pair."""
    faces = StoredFaces(str(folder / "faces"))
    sampler = DistributedBatchSampler(faces, SamplingSpec(views=2), 64, settings.data.window_row_groups, 0, 1)
    data = settings.data.model_copy(update={"readers": count, "cpus_per_reader": 0.1})
    stream = load_batches(
        faces, sampler, 0, 0, 100 * sampler.steps_per_epoch, data, AugmentationSpec(settings.augment, 1000)
    )
    for _ in range(8 * count):
        next(stream)
    images, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        images += 2 * len(next(stream).labels)
    return images / (time.perf_counter() - begin)


def label_free(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """MoCo with its readers; images, two of each pair."""
    return 2 * _trained("ssl", count, folder)


def unified_negatives(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """CosFace with unified negatives and its readers."""
    return _trained("unpg", count, folder)


def embedding(settings: Settings, count: int, seconds: float, folder: Path) -> float:
    """The network on crops and their horizontal flips, float32."""
    model = str(folder / "model.pt")
    save_backbone(model, new_backbone(settings.model), settings.model.name, backbone_kwargs(settings.model), {})
    cfg = settings.embed.model_copy(update={"cpus_per_actor": 1})
    actors = [ray.remote(num_cpus=0.1)(CropEmbeddingActor).remote(model, cfg, 112) for _ in range(count)]
    columns = {name: [None] * CROPS for name in ("name", "identity", "index", "score", "rejected")}
    crops = np.random.default_rng(0).integers(0, 255, CROPS * 112 * 112 * 3, np.uint8).tobytes()
    row = ray.put({"task": "{}", "columns": json.dumps(columns), "crops": crops})
    return calls_a_second(actors, [row], seconds) * CROPS


STAGES: tuple[Callable[[Settings, int, float, Path], float], ...] = (
    generation, alignment, reading, label_free, unified_negatives, embedding,
)  # fmt: skip


JOBS = (label_free, unified_negatives)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--stages", nargs="+", default=[s.__name__ for s in STAGES])
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # the process that is pinned to some cores
    cfg = parser.parse_args()
    if cfg.measure:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cfg.measure)])
        with tempfile.TemporaryDirectory() as folder:
            for row in _measure(cfg, Path(folder)):
                print(json.dumps(row), flush=True)
        return
    rates: dict[tuple[str, int, int], float] = {}
    for cores in cfg.cores:
        flags = ["--measure", str(cores), "--seconds", str(cfg.seconds), "--stages", *cfg.stages]
        command = [sys.executable, "-m", "benchmarks.stages", *flags, "--actors", *map(str, cfg.actors)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                name, count, rate = json.loads(line)
                rates[name, cores, count] = rate
                print(f"{cores} cores, {count} × {name}: {rate:.0f} images/s", file=sys.stderr, flush=True)
        if process.returncode:
            raise SystemExit(f"measuring on {cores} cores ended with status {process.returncode}")
    columns = [(cores, count) for cores in cfg.cores for count in cfg.actors]
    print("| images/s | " + " | ".join(f"{cores} cores, {count} actors" for cores, count in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for name in cfg.stages:
        print(f"| {name} | " + " | ".join(f"{rates[name, *column]:,.0f}" for column in columns) + " |")


def _measure(cfg: argparse.Namespace, folder: Path) -> Iterator[tuple[str, int, float]]:
    settings = load_settings(CONFIG, ["generate.generator=morphable", f"generate.images_per_identity={PICTURES}"])
    noise_dataset(str(folder / "faces"), identities=1024)
    stages: dict[str, Any] = {stage.__name__: stage for stage in STAGES}
    for name in cfg.stages:
        for count in cfg.actors:
            # A new cluster for each, so that no actor of the previous one is left; a training job starts its own.
            with contextlib.nullcontext() if stages[name] in JOBS else cluster(settings):
                yield name, count, stages[name](settings, count, cfg.seconds, folder)


def _trained(method: str, workers: int, folder: Path) -> float:
    """Samples per second of the last of two epochs of a training job."""
    output = folder / f"{method}{workers}"
    own = {"output": output, "data.dataset": folder / "faces", "train.workers": workers, "train.threads": 1,
           "train.cpus_per_worker": 0.2, "data.cpus_per_reader": 0.1, "data.readers": 1, "train.epochs": 2,
           "train.selection": "last", "ssl.pairs_per_identity": 1, "ssl.queue_size": 4096,
           "train.batch_size": 64, "tracking.uri": f"sqlite:///{folder}/mlflow.db",
           "tracking.system_metrics": "false"}  # fmt: skip
    flags = [word for name, value in own.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", f"ray_jobs.train_{method}", "--config", CONFIG, *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return float(json.loads((output / method / "history.json").read_text())[-1]["samples_per_second"])


if __name__ == "__main__":
    main()
