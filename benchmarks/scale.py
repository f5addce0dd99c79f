"""Estimated cost of large runs: hours, nodes, storage, money, and the bottleneck.

    python benchmarks/scale.py [--markdown] [--cpu-nodes 40] [--gpu-nodes 4] [--cpu-price 0.60] [--gpu-price 2.00] …
    python benchmarks/scale.py --h100        what eight H100s need of each stage of label-free training, and get

Rates marked measured come from docs/results.md (one core of an Intel Xeon with AMX); everything about GPUs, object
stores and prices is assumed, because nothing here has run on a GPU or in a cloud. The nodes are those of cluster.yaml:
c7i.8xlarge with 32 virtual CPUs, g6.12xlarge with 48 and 4 L4.
"""

import argparse
from dataclasses import dataclass, replace

# Measured: docs/results.md.
GENERATED_PER_CORE = 49.1  # images/s, morphable at 128 px
ALIGNED_PER_CORE = 876.0  # images/s, RetinaFace at 128 px: detect, choose, warp
BYTES_PER_FACE = 5131  # JPEG 95 with its row, quick-start faces
STORED_PER_CORE = 6949.0  # images/s that a reading task sends as stored, `benchmarks/ingest.py --stages`, busy machine
DECODED_PER_CORE = 10_089.0  # images/s, in the same run
LAUNCHES_PER_BATCH = 1113  # kernels that augment a batch of 1,024 images on a GPU, counted on fake tensors
# The driver of a generation schedules tasks and sees no image: 12.5 ms of its CPU a task, measured by
# benchmarks/generation_scaling.py; here of 320 images, eight identities with 40 or 32 with 10.
DRIVER_PER_CORE = 320 / 0.0125
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
PARAMETERS = {"iresnet50": 43.6e6, "iresnet100": 65.2e6}
NETWORK_MB_PER_NODE = 5000.0  # MB/s, g6.12xlarge: 40 Gbit/s
BATCH = 128  # samples of a GPU in a step
EVALUATED = 12_000  # images after an epoch: those of 3,000 genuine and as many impostor pairs
HOST_COPY_MB = 10_000.0  # MB/s from a GPU to pinned memory
LAUNCH_S = 10e-6  # of a kernel, from Python
# Eight H100s in one p5.48xlarge.
H100S, H100_FLOPS, H100_UTILIZATION = 8, 989e12, (0.15, 0.30)
P5_CORES = 192 * VIRTUAL_CPU
NVME_MB = 4000.0  # MB/s in random row groups


@dataclass(frozen=True)
class Workload:
    """A dataset and a training on it.

    Args:
        source: morphable, discofacegan or import.
        views: images of a sample (label-free training draws pairs).
        samples: drawn over the entire training.
        epochs: of the training.
        passes: how often it reads the dataset: epochs / ssl.epochs_per_pass.
        classes: rows of the margin head; 0 for label-free training.
        sharded: the head is; else its gradients are averaged like the network's.
    """

    name: str
    source: str
    images: int
    network: str
    views: int
    samples: int
    epochs: int
    passes: float
    classes: int = 0
    sharded: bool = False


WORKLOADS = (
    Workload("400K identities × 40, label-free, IResNet-50, 200 epochs of a pair each, 10 a pass", "morphable",
             16_000_000, "iresnet50", 2, 80_000_000, 200, 20),
    Workload("the same faces from DiscoFaceGAN", "discofacegan", 16_000_000, "iresnet50", 2, 80_000_000, 200, 20),
    Workload("MS1MV2, UNPG, IResNet-100, 20 epochs", "import", 5_822_653, "iresnet100", 1, 116_453_060, 20, 20,
             85_742),
    Workload("10M identities × 10, UNPG with a sharded head, IResNet-100, 5 epochs", "morphable", 100_000_000,
             "iresnet100", 1, 500_000_000, 5, 5, 10_000_000, sharded=True),
)  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """Hours of each resource a stage needs in parallel; the longest is its bottleneck.

    Args:
        nodes: nodes that it uses; 0: all of its kind.
        pauses: hours in which all of it waits.
    """

    name: str
    kind: str
    hours: dict[str, float]
    nodes: int = 0
    pauses: float = 0.0

    @property
    def limit(self) -> str:
        """What takes longest."""
        return max(self.hours, key=lambda part: self.hours[part])

    @property
    def time(self) -> float:
        """Hours of the stage."""
        return self.hours[self.limit] + self.pauses


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
    pauses = work.epochs * epoch_end(work, gpus) / 3600
    return [data, Stage("training", "gpu", training(work, gpu_nodes), pauses=pauses)]


def training(work: Workload, gpu_nodes: int) -> dict[str, float]:
    """Hours of each resource a training needs."""
    gpus, read = gpu_nodes * GPUS_PER_NODE, work.samples * work.views
    # Backward costs twice a forward; MoCo's key encoder adds a forward. Of a large head a tenth is computed.
    passes = 3 + (work.views == 2)
    head = 6 * 512 * (work.classes if work.classes <= 1_000_000 else work.classes / 10)
    flops = work.samples * (FORWARD_FLOPS[work.network] * passes + head)
    reading = read * (1 / STORED_PER_CORE + 1 / DECODED_PER_CORE)
    # A ring sends and receives every float32 gradient twice. Within a node they do not use the network.
    gradients = work.samples / (gpus * BATCH) * 2 * 4 * replicated_parameters(work) if gpu_nodes > 1 else 0.0
    return {
        "GPUs": flops / (gpus * GPU_FLOPS) / 3600,
        "reading and decoding": reading / (gpu_nodes * CORES["gpu"]) / 3600,
        "storage": work.passes * work.images * BYTES_PER_FACE / (gpu_nodes * S3_MB_PER_NODE * 1e6) / 3600,
        "gradients": gradients / (NETWORK_MB_PER_NODE * 1e6) / 3600,
    }


def replicated_parameters(work: Workload) -> float:
    """Parameters whose gradients all ranks average."""
    return PARAMETERS[work.network] + (0 if work.sharded else work.classes * 512)


def epoch_end(work: Workload, gpus: int) -> float:
    """Seconds in which all GPUs wait after an epoch: the shared evaluation, and the state's copy to host memory.

    Storing the state is not in it: steps go on meanwhile.
    """
    evaluation = EVALUATED / gpus / DECODED_PER_CORE
    return evaluation + state_megabytes(work, gpus) / HOST_COPY_MB


def state_megabytes(work: Workload, ranks: int) -> float:
    """MB of network and momentum (label-free: the key encoder too), and of a rank's share of the head."""
    copies = 3 if work.views == 2 else 2
    head = work.classes * 512 * 2 / (ranks if work.sharded else 1)
    return (copies * PARAMETERS[work.network] + head) * 4 / 1e6


def h100_rows() -> list[list[str]]:
    """What eight H100s need in label-free training (IResNet-50, 40 images of an identity), and what they get."""
    # Two images of a pair cost four forward passes: query, its backward, key.
    need = [H100S * H100_FLOPS * share / (2 * FORWARD_FLOPS["iresnet50"]) for share in H100_UTILIZATION]
    read = 2 * BYTES_PER_FACE  # of a used image: half of those that are read, with ssl.epochs_per_pass=10
    host = P5_CORES / (1 / STORED_PER_CORE + 1 / DECODED_PER_CORE)
    launched = H100S * 1024 / (LAUNCHES_PER_BATCH * LAUNCH_S)
    wanted = f"{need[0]:,.0f} to {need[1]:,.0f} images/s"
    stop = epoch_end(WORKLOADS[0], H100S)
    return [
        ["storage: S3", wanted, "8,200", f"{S3_MB_PER_NODE * 1e6 / read:,.0f} images/s"],
        [
            "storage: NVMe (data.cache_dir, after a pass)",
            wanted,
            "17,000 to 29,000",
            f"{NVME_MB * 1e6 / read:,.0f} images/s",
        ],
        ["reading tasks and decoding threads", wanted, "(with the row above)", f"{host:,.0f} images/s"],
        ["augmentation on the GPUs, launched by the host", wanted, "none", f"{launched:,.0f} images/s"],
        ["epoch end", "at most 1 s in 17 s", "8 to 10 s", f"{stop:.1f} s"],
    ]


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
            others = [(stage.pauses, "epoch ends (added)"), *others] if stage.pauses else others
            store = f"{gigabytes:,.0f} GB, {gigabytes * S3_MONTH:,.1f} USD a month" if stage.name != "training" else ""
            table.append([
                work.name, stage.name, f"{stage.time:,.2f}", f"{nodes} {stage.kind}",
                f"{stage.time * nodes * price:,.0f}", stage.limit,
                "; ".join(f"{k} {v:,.2f}" for v, k in reversed(others)), store,
            ])  # fmt: skip
    return table


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--cpu-nodes", type=int, default=40)
    parser.add_argument("--gpu-nodes", type=int, default=4)
    parser.add_argument("--cpu-price", type=float, default=0.60, help="USD an hour (assumed spot price)")
    parser.add_argument("--gpu-price", type=float, default=2.00, help="USD an hour (assumed spot price)")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--h100", action="store_true", help="what eight H100s need in label-free training, and get")
    cfg = parser.parse_args()
    if cfg.h100:
        print_table([["stage", "need", "before", "now"], *h100_rows()], cfg.markdown)
        return
    names = ["workload", "stage", "hours", "nodes", "USD", "bottleneck", "hours of the other limits", "storage"]
    print_table([names, *rows(cfg.cpu_nodes, cfg.gpu_nodes, cfg.cpu_price, cfg.gpu_price)], cfg.markdown)
    ranks = cfg.gpu_nodes * GPUS_PER_NODE
    print(f"\nHead of 10M classes: {head_gigabytes(10_000_000, ranks):.1f} GB on each of {ranks} GPUs.")
    every = replace(WORKLOADS[0], passes=WORKLOADS[0].epochs)
    print(f"Label-free with ssl.epochs_per_pass=1: storage {training(every, cfg.gpu_nodes)['storage']:.2f} hours.")


def print_table(table: list[list[str]], markdown: bool) -> None:
    """The first row is the heading."""
    if markdown:
        lines = [table[0], ["---"] * len(table[0]), *table[1:]]
        print("\n".join(f"| {' | '.join(row)} |" for row in lines))
        return
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in table))


if __name__ == "__main__":
    main()
