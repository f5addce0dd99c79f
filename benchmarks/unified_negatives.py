"""Step time and peak memory of UNPG against plain ArcFace and against the concatenating form of the paper.

    python benchmarks/unified_negatives.py [--batches 256 512 1024] [--classes 10000] [--repeats 15] [--threads 1]

A step is the head's forward, the loss and the backward to embeddings and class weights, without a backbone. The forms
alternate within one process, so that a busy machine slows all of them; one CPU thread is measured in CPU time, which
other processes affect less, anything else in wall time. "ratio" is the median over rounds of (this
form's step / ArcFace's step of the same round), with the quartiles in brackets. Memory is the growth of a fresh
process's peak over one step (on a GPU: of the allocator's peak). The concatenating form, [N, C+P] logits, runs at most
three rounds, and is skipped where it would not fit into free memory.

Shapes: N batch, C classes, D embedding, P = N(N−1)/2 pairs.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor

from facelib.losses import ArcFace, MarginOutput, UnifiedNegativeLoss, filter_negatives

FORMS = ("arcface", "unpg", "concatenated")


def main() -> None:
    """Measure every form at every batch size and print the table."""
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        print(memory_of_one_step(arguments))
        return
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {arguments.threads} thread(s)"
    sizes = f"C={arguments.classes}, D={arguments.embedding_size}"
    print(f"{device}; {platform.machine()}; torch {torch.__version__}; {sizes}; {arguments.repeats} rounds")
    print(f"{'N':>5} {'form':<13} {'step ms':>9} {'ratio to ArcFace':>22} {'memory MB':>10}")
    for batch in arguments.batches:
        arguments.batch = batch
        forms = [form for form in arguments.forms if form != "concatenated" or fits(arguments)]
        times = rounds_of_steps(forms, arguments)
        for form in arguments.forms:
            if form not in forms:
                print(f"{batch:>5} {form:<13} needs about {concatenated_bytes(arguments) / 1e9:.0f} GB: skipped")
                continue
            ratios = [own / plain for own, plain in zip(times[form], times["arcface"])]
            first, middle, third = statistics.quantiles(ratios, n=4, method="inclusive")
            ratio = f"{middle:.3f} [{first:.3f}, {third:.3f}]"
            milliseconds = 1000 * statistics.median(times[form])
            print(f"{batch:>5} {form:<13} {milliseconds:>9.1f} {ratio:>22} {peak_memory(form, arguments) / 1e6:>10.0f}")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024], help="batch sizes N")
    parser.add_argument("--forms", choices=FORMS, nargs="+", default=FORMS, help="arcface must be among them")
    parser.add_argument("--classes", type=int, default=10_000)
    parser.add_argument("--embedding-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=15, help="rounds; each form runs one step per round")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--memory-of", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if "arcface" not in arguments.forms:
        parser.error("--forms must name arcface: the ratios are taken to it")
    return arguments


def concatenated_loss(output: MarginOutput, embeddings: Tensor, labels: Tensor) -> Tensor:
    """The paper's formula as written: every row's logits with all kept negatives appended."""
    unit = F.normalize(embeddings)
    pairs = (labels[:, None] != labels[None, :]).triu(diagonal=1)
    negatives = filter_negatives((unit @ unit.T)[pairs], 1.5)
    logits = torch.cat([output.cosines, negatives.expand(len(labels), -1)], dim=1)
    return F.cross_entropy(output.scale * logits, labels)


def build_step(form: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """One training step of the form, without optimizer, on a fixed random batch."""
    torch.manual_seed(0)
    head = ArcFace(arguments.embedding_size, arguments.classes).to(arguments.device)
    embeddings = torch.randn(arguments.batch, arguments.embedding_size, device=arguments.device, requires_grad=True)
    labels = torch.randint(arguments.classes, (arguments.batch,), device=arguments.device)
    losses: dict[str, Callable[..., Tensor]] = {
        "arcface": UnifiedNegativeLoss(whisker=None),
        "unpg": UnifiedNegativeLoss(whisker=1.5),
        "concatenated": concatenated_loss,
    }
    loss = losses[form]

    def step() -> None:
        embeddings.grad = head.weight.grad = None
        loss(head(embeddings, labels), embeddings, labels).backward()
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    return step


def rounds_of_steps(forms: list[str], arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds per step of each form, one entry a round."""
    clock = time.process_time if arguments.device == "cpu" and arguments.threads == 1 else time.perf_counter
    steps = {form: build_step(form, arguments) for form in forms}
    times: dict[str, list[float]] = {form: [] for form in forms}
    for repeat in range(arguments.repeats + 1):
        for form, step in steps.items():
            if form == "concatenated" and repeat > 3:
                continue
            start = clock()
            step()
            if repeat:  # the first round is a warm-up
                times[form].append(clock() - start)
    return times


def concatenated_bytes(arguments: argparse.Namespace) -> float:
    """Logits, their scaled copy, softmax and gradients of the concatenating form: five float32 arrays [N, C+P]."""
    return 5 * 4 * arguments.batch * (arguments.classes + arguments.batch * (arguments.batch - 1) / 2)


def fits(arguments: argparse.Namespace) -> bool:
    """Whether the concatenating form fits into 80 % of the memory that is free now."""
    free = torch.cuda.mem_get_info()[0] if arguments.device == "cuda" else psutil.virtual_memory().available
    return concatenated_bytes(arguments) < 0.8 * free


def peak_memory(form: str, arguments: argparse.Namespace) -> int:
    """Bytes by which one step of the form raises the peak of a process that has head and batch in place."""
    command = [sys.executable, __file__, "--memory-of", form, "--device", arguments.device]
    for name in ("batch", "classes", "embedding_size", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    # Freed arrays go back to the system at once, so that the peak is what was in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def memory_of_one_step(arguments: argparse.Namespace) -> int:
    """Bytes by which the step raises this process's peak."""
    step = build_step(arguments.memory_of, arguments)
    warm_up = argparse.Namespace(**{**vars(arguments), "batch": 8})
    build_step(arguments.memory_of, warm_up)()  # libraries' own buffers
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # forget the peak of the warm-up
    before = psutil.Process().memory_info().rss
    step()
    return peak_resident() - before


def peak_resident() -> int:
    """This process's largest resident size so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent held when it started this process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
