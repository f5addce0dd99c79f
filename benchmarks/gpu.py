"""All that only a GPU can show, in one command and under ten minutes; prints Markdown tables with the machine's name.

    python -m benchmarks.gpu                      # everything
    python -m benchmarks.gpu --only steps --minutes 20
    python -m benchmarks.gpu --toy                # a tiny size, on a CPU too: does it run?

- tests: those that are skipped without a GPU.
- steps: both methods with their published settings, synthetic images on the device, bfloat16, eager and with compiled
  encoders: images per second, milliseconds, floating-point operations per second as a share of what a large bfloat16
  matrix product reaches here ("share of peak"), and the largest memory allocated. What does not fit into `--minutes` is
  named; the first steps (compilation, cuDNN's trials) are not in the times.
- faces: DiscoFaceGAN at its published size with random weights, and RetinaFace on renders, both on the device.
- stages: the stages of the machine's CPUs alone: generation, alignment, reading (decoding and augmentation).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.alignment import render
from benchmarks.discofacegan import random_networks
from benchmarks.ingest import noise_dataset
from benchmarks.stages import CONFIG, alignment, generation, reading
from facelib.alignment import build_detector
from facelib.config import Settings, load_settings
from facelib.synthesis.discofacegan import DiscoFaceGAN
from facelib.utils.devices import autocast, set_cuda_precision
from ray_jobs.cluster import cluster
from ray_jobs.training.methods import METHODS
from ray_jobs.training.optim import build_optimizer
from ray_jobs.training.parallel import compile_encoders

CLASSES = 85_742  # of MS1MV2
TINY = ('model.options={"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}', "model.embedding_size=16",
        "ssl.queue_size=64", "train.precision=float32")  # fmt: skip
Step = Callable[[], None]


def main() -> None:
    """Measure what is asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to run")
    parser.add_argument("--minutes", type=float, default=9, help="no measurement of steps begins after this")
    parser.add_argument("--seconds", type=float, default=4, help="of each rate")
    parser.add_argument("--networks", nargs="+", default=["iresnet50", "iresnet100"])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--toy", action="store_true", help="a tiny network and batch, float32, one thread")
    cfg = parser.parse_args()
    cfg.deadline = time.monotonic() + 60 * cfg.minutes
    if cfg.toy:
        cfg.networks, cfg.batches, cfg.seconds = ["iresnet"], [4], 0.1
        torch.set_num_threads(1)
    print(
        f"{machine()}; torch {torch.__version__}, CUDA {torch.version.cuda}; {os.cpu_count()} CPU cores\n", flush=True
    )
    for name in cfg.only:
        PARTS[name](cfg)


def machine() -> str:
    """Name of the device."""
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU ({platform.processor() or platform.machine()})"


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tests(cfg: argparse.Namespace) -> None:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/facelib/losses" if cfg.toy else "tests/facelib"]
    print(subprocess.run(command, capture_output=True, text=True).stdout.strip().splitlines()[-1], "\n", flush=True)


def steps(cfg: argparse.Namespace) -> None:
    """Print the table of training steps."""
    set_cuda_precision(tf32=False, cudnn_benchmark=True)
    peak = product_rate(512 if cfg.toy else 8192, cfg.seconds)
    print(f"A bfloat16 matrix product: {peak / 1e12:.3g} TFLOP/s\n")
    print("| method | network | N | encoders | images/s | ms a step | share of peak | memory |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for compiled, method, network, batch in itertools.product(
        (False, True), METHODS, cfg.networks, sorted(cfg.batches, reverse=True)
    ):
        row = f"| {method} | {network} | {batch} | {'compiled' if compiled else 'eager'} |"
        if time.monotonic() > cfg.deadline:
            print(row, "no time left | | | |", flush=True)
            continue
        try:
            seconds, operations, views = measure_step(method, network, batch, compiled, cfg)
        except torch.OutOfMemoryError:
            print(row, "out of memory | | | |", flush=True)
            continue
        cuda = device().type == "cuda"
        memory = f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if cuda else "—"
        share = operations / seconds / peak
        print(row, f"{views * batch / seconds:,.0f} | {1000 * seconds:.1f} | {share:.1%} | {memory} |", flush=True)
    print()


def measure_step(
    name: str, network: str, batch: int, compiled: bool, cfg: argparse.Namespace
) -> tuple[float, float, int]:
    """Seconds of a step, its floating-point operations, and images of a sample."""
    overrides = [f"model.name={network}", *(TINY if cfg.toy else ())]
    settings = load_settings(None, overrides)
    torch.manual_seed(0)
    if device().type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step, method = build_step(name, settings, batch, 50 if cfg.toy else CLASSES)
    with FlopCounterMode(display=False) as counter:
        step()
    if compiled:
        compile_encoders(method, backend="eager" if cfg.toy else "inductor")
    for _ in range(2 if cfg.toy else 5):
        step()
    return seconds_of(step, cfg.seconds), counter.get_total_flops(), method.sampling.views


def build_step(name: str, settings: Settings, batch: int, classes: int) -> tuple[Step, Any]:
    """A training step on a fixed batch, without its loader, and its method."""
    method = METHODS[name](settings, classes)
    method.to(device()).to(memory_format=torch.channels_last)
    method.train()
    optimizer = build_optimizer(method.parameters(), settings.train)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    images = torch.randint(256, (method.sampling.views * batch, 3, 112, 112), dtype=torch.uint8).to(device())
    images = images.contiguous(memory_format=torch.channels_last).unflatten(0, (-1, batch))
    labels = torch.randint(classes, (batch,)).to(device())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device(), settings.train.precision):
            output = method(images, labels)
        output.loss.backward()
        optimizer.step()

    return step, method


def product_rate(size: int, seconds: float) -> float:
    """Floating-point operations per second of a square bfloat16 matrix product."""
    matrix = torch.randn(size, size, device=device(), dtype=torch.bfloat16)
    return 2 * size**3 / seconds_of(lambda: torch.mm(matrix, matrix), seconds)


def seconds_of(run: Callable[[], object], seconds: float) -> float:
    """Mean time of a call, over at least three calls and about so many seconds."""

    def timed(count: int) -> float:
        begin = time.perf_counter()
        for _ in range(count):
            run()
        if device().type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / count

    return timed(max(3, int(seconds / max(timed(2), 1e-6))))


def faces(cfg: argparse.Namespace) -> None:
    """Print the rates of generator and detector on the device."""
    set_cuda_precision(tf32=False)
    side = 32 if cfg.toy else 256
    networks = random_networks(side)
    count = 2 if cfg.toy else 256
    coefficients = np.random.default_rng(0).normal(size=(count, 286)).astype(np.float32)
    runs: dict[str, Callable[[], object]] = {}
    for precision in ("float32", "bfloat16"):
        options: dict[str, Any] = {"bfloat16": True, "channels_last": True} if precision == "bfloat16" else {}
        generator = DiscoFaceGAN(networks, np.zeros(512, np.float32), device=device().type, **options)
        runs[f"DiscoFaceGAN, {side} px, {precision}"] = functools.partial(generator.synthesize, coefficients)
    for size in (128,) if cfg.toy else (128, 256):
        detector = build_detector("retinaface", device=device().type)
        runs[f"RetinaFace, {size} px"] = functools.partial(detector.detect, render(count, size))
    print("| on the device | images/s |")
    print("|---|---|", flush=True)
    for name, run in runs.items():
        print(f"| {name} | {count / seconds_of(run, cfg.seconds):,.0f} |", flush=True)
    print()


def stages(cfg: argparse.Namespace) -> None:
    """Print the rates of the stages that feed a GPU."""
    count = 1 if cfg.toy else max(1, (os.cpu_count() or 2) - 1)
    print(f"| stage alone, {count} actors or readers | images/s |")
    print("|---|---|", flush=True)
    for name, rate in stage_rates(count, cfg.seconds):
        print(f"| {name} | {rate:,.0f} |", flush=True)
    print()


def stage_rates(count: int, seconds: float) -> Iterator[tuple[str, float]]:
    """Name and rate of each stage; its actors end with it."""
    settings = load_settings(CONFIG, ["generate.generator=morphable", "generate.images_per_identity=8"])
    with tempfile.TemporaryDirectory() as folder:
        noise_dataset(f"{folder}/faces", identities=512)
        with cluster(settings):
            for stage in (generation, alignment, reading):
                yield stage.__name__, stage(settings, count, seconds, Path(folder))


PARTS: dict[str, Callable[[argparse.Namespace], None]] = {
    "tests": tests,
    "steps": steps,
    "faces": faces,
    "stages": stages,
}


if __name__ == "__main__":
    main()
