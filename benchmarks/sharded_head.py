"""Memory of a rank with a sharded head: measured where it fits on this machine, computed otherwise.

    python -m benchmarks.sharded_head [--measure 85000:1 85000:2] [--batch 128] [--sample-rate 1.0]

One training step (forward, backward, SGD with momentum) of the head alone. Measured is the growth of a fresh process's
peak from before the head exists. Computed is, for a rank:

    4 · [ 3 · C/W · D                weight, gradient, momentum
        + copies · r · C/W · (B + D) logits and sampled, normalized weights with what backward keeps of them
        + 6 · B · D + 4 · B² ]       gathered embeddings, pair similarities

with `copies` as measured at the first size. C classes, W ranks, D embedding, B global batch, r sample rate.
"""

import argparse
import multiprocessing
import os
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.unified_negatives import peak_resident
from facelib.losses import ArcFace, ShardedMarginLoss

SIZES = (85_000, 1_000_000, 10_000_000)
RANKS = (1, 8, 64)


def main() -> None:
    """Measure, compute, print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="+", default=["85000:1", "85000:2"], help="classes:ranks")
    parser.add_argument("--batch", type=int, default=128, help="of one rank")
    parser.add_argument("--embedding-size", type=int, default=512)
    parser.add_argument("--sample-rate", type=float, default=1.0)
    arguments = parser.parse_args()
    batch, size, rate = arguments.batch, arguments.embedding_size, arguments.sample_rate
    print(f"D={size}, {batch} rows per rank, sample rate {rate}, UNPG, SGD with momentum, float32")
    copies = 0.0
    for spec in arguments.measure:
        classes, ranks = map(int, spec.split(":"))
        grown = measure(classes, ranks, batch, size, rate)
        if not copies:
            rest = grown - computed(classes, ranks, batch, size, rate, 0.0)
            copies = rest / (4 * rate * classes / ranks * (batch * ranks + size))
            print(f"copies: {copies:.2f}")
        expected = computed(classes, ranks, batch, size, rate, copies)
        print(
            f"{classes:>10,} classes, {ranks:>2} ranks: measured {grown / 1e9:6.2f} GB, computed {expected / 1e9:.2f}"
        )
    for classes in SIZES:
        cells = [
            f"{ranks} ranks {computed(classes, ranks, batch, size, rate, copies) / 1e9:8.2f} GB" for ranks in RANKS
        ]
        print(f"{classes:>10,} classes, computed: {', '.join(cells)}")


def computed(classes: int, ranks: int, batch: int, size: int, rate: float, copies: float) -> float:
    """Bytes of a rank by the formula above."""
    local, rows = classes / ranks, batch * ranks
    return 4 * (3 * local * size + copies * rate * local * (rows + size) + 6 * rows * size + 4 * rows**2)


def measure(classes: int, ranks: int, batch: int, size: int, rate: float) -> int:
    """Bytes by which the largest rank's memory grew."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        pipes, processes = [], []
        for rank in range(ranks):
            here, there = context.Pipe()
            arguments = (there, rank, ranks, f"file://{folder}/store", classes, batch, size, rate)
            process = context.Process(target=one_rank, args=arguments)
            process.start()
            pipes.append(here)
            processes.append(process)
        largest = max(pipe.recv() for pipe in pipes)
        for process in processes:
            process.join()
    return largest


def one_rank(
    answer: Connection, rank: int, ranks: int, store: str, classes: int, batch: int, size: int, rate: float
) -> None:
    """Two steps of one rank; sends by how many bytes its peak grew."""
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // ranks))
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    train(32 * ranks, 8, size, rate, steps=1)  # buffers of the libraries
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # reset the peak
    before = peak_resident()
    train(classes, batch, size, rate, steps=2)
    answer.send(peak_resident() - before)
    dist.barrier()
    dist.destroy_process_group()


def train(classes: int, batch: int, size: int, rate: float, steps: int) -> None:
    """Steps of the head alone."""
    loss = ShardedMarginLoss(ArcFace, size, classes, sample_rate=rate)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1, momentum=0.9)
    for _ in range(steps):
        embeddings = torch.randn(batch, size, requires_grad=True)
        optimizer.zero_grad()
        loss(embeddings, torch.randint(classes, (batch,))).backward()
        optimizer.step()


if __name__ == "__main__":
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", "65536")  # freed arrays go back to the system at once
    main()
