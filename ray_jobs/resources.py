"""The one place that knows what fits on the cluster: checked before actors and trainers start.

Ray itself waits without an error. Actors that can never start block every stage that depends on them: actors of two
stages deadlock, and rows sent to an actor that never starts are never processed.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from facelib.config import Settings, TrainSettings
from facelib.utils.wording import counted
from ray_jobs.errors import JobError

logger = logging.getLogger(__name__)

Resources = Mapping[str, float]


class ActorSettings(Protocol):
    """Fields that every settings section with actors has."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float


class ActorRequest(NamedTuple):
    """Actors of a settings section that must run at the same time.

    Attributes:
        section: name of the settings section, for messages.
        cfg: the section, with the CPUs and GPUs that one actor reserves.
        count: number of its actors that must run for the job to make progress.
    """

    section: str
    cfg: ActorSettings
    count: int  # type: ignore[assignment]  # hides tuple.count


def check_resources(autoscaling: bool, *requests: ActorRequest) -> None:
    """Refuse actors that cannot all run at the same time.

    Args:
        autoscaling: the cluster grows on demand (`ray.autoscaling`), so its current size is not a limit.

    Raises:
        JobError: the cluster is too small.
    """
    nodes = cluster_nodes()
    bundles = [{"CPU": r.cfg.cpus_per_actor, "GPU": r.cfg.gpus_per_actor} for r in requests for _ in range(r.count)]
    if can_place(nodes, bundles):
        return
    requested = " and ".join(
        f"{r.count} of {r.section}.actors with {r.section}.cpus_per_actor={r.cfg.cpus_per_actor:g} and gpus_per_actor="
        f"{r.cfg.gpus_per_actor:g} each"
        for r in requests
    )
    if autoscaling:
        _say_waiting(requested, nodes)
        return
    raise JobError(
        f"not enough resources for {requested}, which must run at the same time: the cluster has "
        f"{describe_resources(nodes)}. Lower one of them (fractions are allowed), or set ray.autoscaling=true if the "
        "cluster grows on demand"
    )


def _say_waiting(what: str, nodes: list[dict[str, float]]) -> None:
    logger.info("Ray: waiting for nodes for %s; the cluster has %s", what, describe_resources(nodes))


def cluster_nodes() -> list[dict[str, float]]:
    """Total resources of each live node of the cluster, e.g. {"CPU": 16, "GPU": 2}."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def describe_resources(nodes: list[dict[str, float]]) -> str:
    """`8 CPUs and 2 GPUs on 3 nodes`."""
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    return f"{counted(cpus, 'CPU')} and {counted(gpus, 'GPU')} on {counted(len(nodes), 'node')}"


def can_place(nodes: Sequence[Resources], bundles: Sequence[Resources]) -> bool:
    """Whether all bundles can be placed on these nodes at the same time, each on a single node.

    Greedy, as schedulers are, not exhaustive: the largest bundles first, on nodes with GPUs only where no other node
    has capacity.
    """
    free = sorted((dict(node) for node in nodes), key=lambda node: node.get("GPU", 0))
    largest_first = sorted(bundles, key=lambda bundle: (bundle.get("GPU", 0), bundle.get("CPU", 0)), reverse=True)
    return all(_place(free, bundle) for bundle in largest_first)


def trials_that_fit(
    nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int
) -> int:
    """Number of trials, each with its workers and readers, that can be placed on these nodes at the same time.

    Args:
        nodes: total resources of each node, e.g. {"CPU": 16, "GPU": 2}.
        worker: resources that each worker of a trial reserves.
        workers: number of workers of one trial.
        reader_cpus: CPUs that one reading task reserves.
        readers: concurrent reading tasks of one worker; a single trial that would not fit otherwise runs with one.
    """
    count = _count_trials(nodes, worker, workers, reader_cpus, readers)
    return count or min(_count_trials(nodes, worker, workers, reader_cpus, 1), 1)


def _count_trials(nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int) -> int:
    """Place trials one after the other, each bundle on the first node with capacity, until one does not fit."""
    free = [dict(node) for node in nodes]
    bundles = [*[worker] * workers, *[{"CPU": reader_cpus}] * (readers * workers)]
    count = 0
    # Bundles that reserve nothing fit any number of times.
    while count < 10_000 and all(_place(free, bundle) for bundle in bundles):
        count += 1
    return count


def _place(free: list[dict[str, float]], bundle: Resources) -> bool:
    for node in free:
        if all(node.get(name, 0) >= amount - 1e-9 for name, amount in bundle.items()):
            for name, amount in bundle.items():
                node[name] = node.get(name, 0) - amount
            return True
    return False


def worker_resources(train: TrainSettings) -> dict[str, float]:
    """What one training worker reserves: CPUs, and its share of a GPU."""
    return {"CPU": train.cpus_per_worker, **({"GPU": train.gpus_per_worker} if train.use_gpu else {})}


def check_training_resources(settings: Settings) -> None:
    """Check that trainers, their readers and the actors that generate their faces fit on the cluster together.

    Raises:
        JobError: they do not, and the job would deadlock.
    """
    train, data = settings.train, settings.data
    workers = train.min_workers or train.workers
    sections: list[ActorSettings] = [settings.generate, settings.align] if data.stream else []
    actors = [{"CPU": cfg.cpus_per_actor, "GPU": cfg.gpus_per_actor} for cfg in sections for _ in range(cfg.actors)]
    # One reader per worker is enough to make progress, slowly.
    needed = [*actors, *[worker_resources(train)] * workers, *[{"CPU": data.cpus_per_reader}] * workers]
    nodes = cluster_nodes()
    if not can_place(nodes, needed):
        if settings.ray.autoscaling:  # Its future size is unknown here; Ray reports a demand that it can never meet.
            _say_waiting(f"train.workers={workers} and what they need", nodes)
            return
        cpus = workers * (train.cpus_per_worker + (data.readers + 1) * data.cpus_per_reader)
        online = " and, with data.stream, generate.actors and align.actors" if sections else ""
        gpus = f", train.gpus_per_worker={train.gpus_per_worker:g}" if train.use_gpu else ""
        raise JobError(
            f"train.workers={workers} need {cpus:g} CPUs with their readers (train.cpus_per_worker="
            f"{train.cpus_per_worker:g}{gpus}, data.readers={data.readers}, data.cpus_per_reader="
            f"{data.cpus_per_reader:g}){online}; the cluster has {describe_resources(nodes)}: lower one of them, or "
            "set ray.autoscaling=true if the cluster grows"
        )
