"""Estimated cost of large runs: hours, nodes, storage, money, and the bottleneck.

    python benchmarks/scale.py [--markdown] [--cpu-nodes 40] [--gpu-nodes 4] [--cpu-price 0.60] [--gpu-price 2.00] …

Rates marked measured come from docs/results.md (one core of an Intel Xeon with AMX) or from running this file's
`--measure`; everything about GPUs, object stores and prices is assumed, because nothing here has run on a GPU or in a
cloud. The nodes are those of cluster.yaml: c7i.8xlarge with 32 virtual CPUs, g6.12xlarge with 48 and 4 L4.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass

# Measured: docs/results.md, and `--measure`.
GENERATED_PER_CORE = 49.1  # images/s, morphable at 128 px
ALIGNED_PER_CORE = 876.0  # images/s, RetinaFace at 128 px: detect, choose, warp
READ_PER_CORE = {2: 1140.0, 1: 6000.0}  # images/s decoded and augmented: label-free measured, a flip assumed
BYTES_PER_FACE = 5131  # JPEG 95 with its row, quick-start faces
DRIVER_PER_CORE = 23_900.0  # images/s that one driver process receives, sorts, writes and reads back, local disk
# Assumed.
VIRTUAL_CPU = 0.6  # of a core: two share one
GPU_FLOPS = 121e12 * 0.30  # L4, bfloat16 dense, at a utilization of 30 %
DISCOFACEGAN_PER_GPU = 100.0  # images/s at 256 px (3.06 measured on a CPU core)
ALIGNED_256_PER_CORE = 259.0  # measured; RetinaFace at 256 px
IMPORTED_PER_CORE = 1200.0  # images/s through Ray Data into Parquet, measured once
S3_MB_PER_NODE = 500.0  # MB/s
S3_MONTH = 0.023  # USD for a GB and month
FORWARD_FLOPS = {"iresnet50": 12.6e9, "iresnet100": 24.2e9}  # of one 112 px image
CORES = {"cpu": 32 * VIRTUAL_CPU, "gpu": 48 * VIRTUAL_CPU}
GPUS_PER_NODE = 4


@dataclass(frozen=True)
class Workload:
    """A dataset and a training on it.

    Args:
        source: morphable, discofacegan or import.
        views: images of a sample (label-free training draws pairs).
        samples: drawn over the entire training.
        classes: rows of the margin head; 0 for label-free training.
    """

    name: str
    source: str
    images: int
    network: str
    views: int
    samples: int
    classes: int = 0


WORKLOADS = (
    Workload("400K identities × 40, label-free, IResNet-50, 200 epochs of a pair each", "morphable", 16_000_000,
             "iresnet50", 2, 80_000_000),
    Workload("the same faces from DiscoFaceGAN", "discofacegan", 16_000_000, "iresnet50", 2, 80_000_000),
    Workload("MS1MV2, UNPG, IResNet-100, 20 epochs", "import", 5_822_653, "iresnet100", 1, 116_453_060, 85_742),
    Workload("10M identities × 10, UNPG with a sharded head, IResNet-100, 5 epochs", "morphable", 100_000_000,
             "iresnet100", 1, 500_000_000, 10_000_000),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Hours of each resource a stage needs in parallel; the longest is the stage's time and its bottleneck.

    Args:
        nodes: nodes that it uses; 0: all of its kind.
    """

    name: str
    kind: str
    hours: dict[str, float]
    nodes: int = 0

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(self.hours, key=lambda part: self.hours[part])

    @property
    def time(self) -> float:
        """Hours of the stage."""
        return self.hours[self.limit]


def stages(work: Workload, cpu_nodes: int, gpu_nodes: int) -> list[Stage]:
    """Data, then training, on the given nodes of each kind."""

    def hours(amount: float, rate: float) -> float:
        return amount / rate / 3600

    cpu_cores, gpus = cpu_nodes * CORES["cpu"], gpu_nodes * GPUS_PER_NODE
    driver = {"driver": hours(work.images, DRIVER_PER_CORE * VIRTUAL_CPU)}
    if work.source == "morphable":
        each = 1 / GENERATED_PER_CORE + 1 / ALIGNED_PER_CORE
        data = Stage("faces", "cpu", {"generation and alignment": hours(work.images * each, cpu_cores), **driver})
    elif work.source == "discofacegan":
        data = Stage("faces", "gpu", {
            "DiscoFaceGAN": hours(work.images, gpus * DISCOFACEGAN_PER_GPU),
            "alignment": hours(work.images, gpu_nodes * CORES["gpu"] * ALIGNED_256_PER_CORE), **driver,
        })  # fmt: skip
    else:
        # The actors write the parts themselves; one node is enough.
        data = Stage("import", "cpu", {
            "decoding and writing": hours(work.images, CORES["cpu"] * IMPORTED_PER_CORE),
            "storage": hours(work.images * BYTES_PER_FACE, S3_MB_PER_NODE * 1e6),
        }, nodes=1)  # fmt: skip
    return [data, Stage("training", "gpu", training(work, gpu_nodes))]


def training(work: Workload, gpu_nodes: int) -> dict[str, float]:
    """Hours of each resource a training needs."""
    gpus, read = gpu_nodes * GPUS_PER_NODE, work.samples * work.views
    # Backward costs twice a forward; MoCo's key encoder adds a forward. Of a large head a tenth is computed.
    passes = 3 + (work.views == 2)
    head = 6 * 512 * (work.classes if work.classes <= 1_000_000 else work.classes / 10)
    flops = work.samples * (FORWARD_FLOPS[work.network] * passes + head)
    return {
        "GPUs": flops / (gpus * GPU_FLOPS) / 3600,
        "decoding and augmentation": read / READ_PER_CORE[work.views] / (gpu_nodes * CORES["gpu"]) / 3600,
        "storage": read * BYTES_PER_FACE / (gpu_nodes * S3_MB_PER_NODE * 1e6) / 3600,
    }


def head_gigabytes(classes: int, ranks: int) -> float:
    """Weights, gradient and momentum of a sharded float32 head on one rank, 512-d."""
    return classes * 512 * 4 * 3 / ranks / 1e9


def rows(cpu_nodes: int, gpu_nodes: int, cpu_price: float, gpu_price: float) -> list[list[str]]:
    """One row per stage: workload, stage, hours, nodes, USD, bottleneck, hours of the other limits, storage."""
    table = []
    for work in WORKLOADS:
        gigabytes = work.images * BYTES_PER_FACE / 1e9
        for stage in stages(work, cpu_nodes, gpu_nodes):
            nodes, price = (cpu_nodes, cpu_price) if stage.kind == "cpu" else (gpu_nodes, gpu_price)
            nodes = stage.nodes or nodes
            others = sorted((v, k) for k, v in stage.hours.items() if k != stage.limit)
            store = f"{gigabytes:,.0f} GB, {gigabytes * S3_MONTH:,.1f} USD a month" if stage.name != "training" else ""
            table.append([
                work.name, stage.name, f"{stage.time:,.2f}", f"{nodes} {stage.kind}",
                f"{stage.time * nodes * price:,.0f}", stage.limit,
                "; ".join(f"{k} {v:,.2f}" for v, k in reversed(others)), store,
            ])  # fmt: skip
    return table


def measure() -> float:
    """Images per CPU second that the driver of a generation receives, sorts, writes and reads back."""
    import numpy as np
    import pyarrow as pa

    from facelib.data import SCHEMA, Face, Folder, faces_to_table, write_part

    rng, count, repeats = np.random.default_rng(0), 64 * 40, 8
    landmarks, factors = np.zeros((5, 2), np.float32), np.zeros(60, np.float32)
    faces = [Face(rng.bytes(BYTES_PER_FACE), i // 40, i % 40, 0.9, landmarks, factors, "x") for i in range(count)]
    chunks = []
    for begin in range(0, count, 320):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, SCHEMA) as writer:
            writer.write_table(faces_to_table(faces[begin : begin + 320]))
        chunks.append(sink.getvalue())
    with tempfile.TemporaryDirectory() as temporary:
        started = time.process_time()
        for part in range(repeats):
            table = pa.concat_tables([pa.ipc.open_stream(c).read_all() for c in chunks])
            table = table.sort_by([("identity", "ascending"), ("index", "ascending")])
            write_part(Folder(temporary), f"part-{part:07d}.parquet", table, count, {}, "x")
        return repeats * count / (time.process_time() - started)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cpu-nodes", type=int, default=40)
    parser.add_argument("--gpu-nodes", type=int, default=4)
    parser.add_argument("--cpu-price", type=float, default=0.60, help="USD an hour (assumed spot price)")
    parser.add_argument("--gpu-price", type=float, default=2.00, help="USD an hour (assumed spot price)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--measure", action="store_true", help="measure the driver's rate on this machine")
    cfg = parser.parse_args()
    if cfg.measure:
        print(f"driver: {measure():,.0f} images per CPU second")
        return
    names = ["workload", "stage", "hours", "nodes", "USD", "bottleneck", "hours of the other limits", "storage"]
    table = [names, *rows(cfg.cpu_nodes, cfg.gpu_nodes, cfg.cpu_price, cfg.gpu_price)]
    if cfg.markdown:
        table.insert(1, ["---"] * len(names))
        print("\n".join(f"| {' | '.join(row)} |" for row in table))
    else:
        widths = [max(len(row[i]) for row in table) for i in range(len(names))]
        print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table))
    ranks = cfg.gpu_nodes * GPUS_PER_NODE
    print(f"\nHead of 10M classes: {head_gigabytes(10_000_000, ranks):.1f} GB on each of {ranks} GPUs.")


if __name__ == "__main__":
    main()
