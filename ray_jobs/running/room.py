"""Whether the actors that a job starts find room on the cluster.

Where some never start, what waits for them waits for ever, and nobody says so: actors of two stages wait for each
other, pictures sent to an actor wait for it.
"""

from typing import NamedTuple, Protocol

import ray

from facelib.capacity import fits
from ray_jobs.running.session import JobError


class ActorSettings(Protocol):
    """What sections of settings with actors have in common."""

    cpus_per_actor: float
    gpus_per_actor: float


class Pool(NamedTuple):
    """Section of the settings, its values, and how many of its actors must run at once for the job to go on."""

    section: str
    ask: ActorSettings
    count: int


def require_actors(grows: bool, *pools: Pool) -> None:
    """Refuse what cannot run at the same time.

    Args:
        grows: the cluster does (`ray.autoscaling`): what it has now says nothing.

    Raises:
        JobError: the cluster is too small.
    """
    if grows:
        return
    nodes = nodes_there()
    pieces = [{"CPU": p.ask.cpus_per_actor, "GPU": p.ask.gpus_per_actor} for p in pools for _ in range(p.count)]
    if fits(nodes, pieces):
        return
    asked = " and ".join(
        f"{p.count} of {p.section}.actors with {p.section}.cpus_per_actor={p.ask.cpus_per_actor:g} and gpus_per_actor="
        f"{p.ask.gpus_per_actor:g} each"
        for p in pools
    )
    raise JobError(
        f"no room for {asked}, which must run at the same time: there are {room_there(nodes)}. Lower one of them "
        "(fractions are fine), or set ray.autoscaling=true if the cluster grows"
    )


def nodes_there() -> list[dict[str, float]]:
    """What each node of the cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def room_there(nodes: list[dict[str, float]]) -> str:
    """`8 CPUs and 2 GPUs on 3 nodes`."""
    cpus, gpus = (sum(node.get(name, 0) for node in nodes) for name in ("CPU", "GPU"))
    return f"{cpus:g} CPUs and {gpus:g} GPUs on {len(nodes)} nodes"
