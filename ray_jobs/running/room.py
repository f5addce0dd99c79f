"""Whether the actors that a job starts at once find room on the cluster.

Those of one pipeline wait for each other: where the first pool takes every CPU, the second never starts, and nobody
says so for minutes.
"""

from typing import NamedTuple, Protocol

import ray

from facelib.config import Settings
from ray_jobs.running.session import JobError


class ActorSettings(Protocol):
    """What sections of settings with actors have in common."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float


class Pool(NamedTuple):
    """Actors of one kind: section of the settings, its values, and how many pieces of work there are for them."""

    section: str
    ask: ActorSettings
    work: int

    @property
    def count(self) -> int:
        """Actors that are started."""
        return min(self.ask.actors, self.work)


def require_actors(settings: Settings, *pools: Pool) -> None:
    """Refuse what cannot run at the same time.

    Raises:
        JobError: the cluster is too small, and is not said to grow.
    """
    if settings.ray.autoscaling:
        return
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for resource, flag in (("CPU", "cpus_per_actor"), ("GPU", "gpus_per_actor")):
        each = [getattr(pool.ask, flag) for pool in pools]
        needed = sum(pool.count * amount for pool, amount in zip(pools, each, strict=True))
        there = [node.get(resource, 0.0) for node in nodes]
        if needed <= sum(there) + 1e-9 and max(each) <= max(there) + 1e-9:
            continue
        asked = " and ".join(
            f"{pool.section}.actors={pool.count} of {pool.section}.{flag}={amount:g}"
            for pool, amount in zip(pools, each, strict=True)
            if amount
        )
        raise JobError(
            f"{asked} need {needed:g} {resource}s at once, the cluster has {sum(there):g} on {len(nodes)} nodes, at "
            f"most {max(there):g} on one: lower one of them (fractions are fine), or set ray.autoscaling=true if the "
            "cluster grows"
        )
