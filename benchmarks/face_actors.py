"""Generator and aligner actors on Ray: images per second with one and two actors, and their memory.

    python -m benchmarks.face_actors --seconds 10

Generators: morphable (128 pixels) and DiscoFaceGAN (256 pixels, the published size, with random weights). Detectors:
RetinaFace and MTCNN, with selection, warp and JPEG, on morphable's images. Each actor has one thread. A round gives
every actor work for about `--seconds`, after one call to start its libraries.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray

from benchmarks.discofacegan import random_networks
from facelib.config import load_settings
from facelib.synthesis.discofacegan.vae import FACTORS
from facelib.synthesis.discofacegan.weights import save_weights
from ray_jobs.cluster import cluster
from ray_jobs.datasets.generation import AlignerActor, Chunk, GeneratorActor

HIDDEN = {"id": 512, "exp": 256, "gamma": 128, "rot": 32}  # of the published decoders
COEFFICIENTS = {"id": 160, "exp": 64, "gamma": 27, "rot": 3}


class Generate(GeneratorActor):
    """A generator actor that reports its memory."""

    def memory(self) -> int:
        return psutil.Process(os.getpid()).memory_info().rss


class Align(AlignerActor):
    """An aligner actor that reports its memory."""

    def memory(self) -> int:
        return psutil.Process(os.getpid()).memory_info().rss


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--images", type=int, default=8, help="images of each identity, and so of each call")
    arguments = parser.parse_args()
    print("| actor | actors | images/s | each | memory of one, MB |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder, cluster(load_settings(None)):
        _random_weights(Path(folder))
        common = [f"generate.images_per_identity={arguments.images}", "generate.cpus_per_actor=0.5"]
        morphable = load_settings(None, common)
        options = json.dumps({"folder": folder, "batch_size": arguments.images})
        gan = load_settings(None, [*common, "generate.generator=discofacegan", f"generate.options={options}"])
        for settings in (morphable, gan):
            generate = settings.generate
            rows = [asdict(Chunk(0, first, 1)) for first in range(100_000)]
            _report(generate.generator_name, Generate, (0, generate), rows, arguments)
        made = [GeneratorActor(0, morphable.generate)(asdict(Chunk(0, first, 1))) for first in range(16)]
        images = [ray.put(chunk) for chunk in made]  # as generators pass them on
        for detector in ("retinaface", "mtcnn"):
            align = load_settings(None, [f"align.detector={detector}"]).align
            _report(detector, Align, (align, 95), images, arguments)


def _report(name: str, kind: type, arguments: tuple[Any, ...], rows: list[Any], cfg: argparse.Namespace) -> None:
    for count in (1, 2):
        actors: list[Any] = [ray.remote(num_cpus=0.5)(kind).remote(*arguments) for _ in range(count)]
        rate = calls_a_second(actors, rows, cfg.seconds) * cfg.images
        memory = max(ray.get([actor.memory.remote() for actor in actors])) / 1e6
        print(f"| {name} | {count} | {rate:.1f} | {rate / count:.1f} | {memory:.0f} |", flush=True)
        for actor in actors:
            ray.kill(actor)


def calls_a_second(actors: Sequence[Any], rows: Sequence[Any], seconds: float) -> float:
    """Calls per second of busy actors: one warm-up call each, then work for about `seconds`."""
    ray.get([actor.__call__.remote(rows[0]) for actor in actors])
    begin = time.perf_counter()
    ray.get([actor.__call__.remote(rows[k % len(rows)]) for k, actor in enumerate(actors)])
    calls = max(2, round(seconds / (time.perf_counter() - begin)))
    begin = time.perf_counter()
    answers = [actor.__call__.remote(rows[(n * len(actors) + k) % len(rows)])
               for n in range(calls) for k, actor in enumerate(actors)]  # fmt: skip
    ray.wait(answers, num_returns=len(answers))  # their images stay in the object store
    seconds = time.perf_counter() - begin
    for answer in answers:
        ray.get(answer)  # an error, if there was one
    return len(answers) / seconds


def _random_weights(folder: Path) -> None:
    """A converted folder of the published sizes."""
    networks, rng = random_networks(256), np.random.default_rng(2)
    decoders: dict[str, Any] = {}
    for factor, (_, size) in FACTORS.items():
        widths = [size, *[HIDDEN[factor]] * 3, COEFFICIENTS[factor]]
        decoders[factor] = {}
        for layer, (rows, columns) in enumerate(itertools.pairwise(widths)):
            name = ("fc0", "fc1", "fc2", "x_hat")[layer]
            decoders[factor][f"{name}/kernel"] = rng.normal(size=(rows, columns), scale=rows**-0.5).astype(np.float32)
            decoders[factor][f"{name}/bias"] = np.zeros(columns, np.float32)
    average = np.zeros((networks.topology.layers, networks.topology.dlatent_size), np.float32)
    save_weights(folder, networks, average, decoders, {})


if __name__ == "__main__":
    main()
