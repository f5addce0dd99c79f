"""What fits on the cluster: checked before actors and trainers start, because Ray waits without an error.

Where some actors of a job can never start, what depends on them waits forever: actors of two stages wait for each
other, images sent to an actor wait for it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import ray

from ray_jobs.errors import JobError

Resources = Mapping[str, float]


class ActorSettings(Protocol):
    """What sections of settings with actors have in common."""

    cpus_per_actor: float
    gpus_per_actor: float


class ActorRequest(NamedTuple):
    """Section of the settings, its values, and how many of its actors must run at once for the job to go on."""

    section: str
    cfg: ActorSettings
    count: int


def check_resources(grows: bool, *pools: ActorRequest) -> None:
    """Refuse what cannot run at the same time.

    Args:
        grows: the cluster does (`ray.autoscaling`): what it has now says nothing.

    Raises:
        JobError: the cluster is too small.
    """
    if grows:
        return
    nodes = cluster_nodes()
    pieces = [{"CPU": p.cfg.cpus_per_actor, "GPU": p.cfg.gpus_per_actor} for p in pools for _ in range(p.count)]
    if can_place(nodes, pieces):
        return
    asked = " and ".join(
        f"{p.count} of {p.section}.actors with {p.section}.cpus_per_actor={p.cfg.cpus_per_actor:g} and gpus_per_actor="
        f"{p.cfg.gpus_per_actor:g} each"
        for p in pools
    )
    raise JobError(
        f"no room for {asked}, which must run at the same time: there are {describe_resources(nodes)}. Lower one "
        "of them (fractions are fine), or set ray.autoscaling=true if the cluster grows"
    )


def cluster_nodes() -> list[dict[str, float]]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def describe_resources(nodes: list[dict[str, float]]) -> str:
    """`8 CPUs and 2 GPUs on 3 nodes`."""
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    return f"{cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes"


def can_place(nodes: Sequence[Resources], pieces: Sequence[Resources]) -> bool:
    """Whether all pieces can be placed on these nodes at the same time; none is cut.

    The largest are placed first, and on nodes with GPUs only where nothing else has room: not every arrangement is
    tried, but those that schedulers find.
    """
    free = sorted((dict(node) for node in nodes), key=lambda node: node.get("GPU", 0))
    largest_first = sorted(pieces, key=lambda piece: (piece.get("GPU", 0), piece.get("CPU", 0)), reverse=True)
    return all(_place(free, piece) for piece in largest_first)


def trials_that_fit(
    nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int
) -> int:
    """Number of whole trials, workers and readers, that can be placed on these nodes at the same time.

    Counted by placing them one after the other, each piece on the first node with room; pieces are not cut.

    Args:
        nodes: what each node has, e.g. {"CPU": 16, "GPU": 2}.
        worker: what each of a trial's workers reserves.
        workers: of one trial.
        reader_cpus: what one reading task reserves.
        readers: of one worker at a time; a trial that must be alone gets along with one.
    """
    count = _count(nodes, worker, workers, reader_cpus, readers)
    return count or min(_count(nodes, worker, workers, reader_cpus, 1), 1)


def _count(nodes: Sequence[Resources], worker: Resources, workers: int, reader_cpus: float, readers: int) -> int:
    free = [dict(node) for node in nodes]
    reader = {"CPU": reader_cpus}
    count = 0
    while all(_place(free, piece) for piece in [*[worker] * workers, *[reader] * (readers * workers)]):
        count += 1
        if count >= 10_000:
            break  # Reserving nothing fits any number of times.
    return count


def _place(free: list[dict[str, float]], piece: Resources) -> bool:
    for node in free:
        if all(node.get(name, 0) >= amount - 1e-9 for name, amount in piece.items()):
            for name, amount in piece.items():
                node[name] = node.get(name, 0) - amount
            return True
    return False
