"""Faces made while training goes on: generator actors → aligner actors → the trainer's readers, no dataset on disk.

A training's first epoch has the people and pictures that `ray_jobs.generate` would have stored under the same settings;
every later epoch has new ones, numbered on. Pairs (label-free) bring new people, because labels mean nothing there;
single images (supervised) bring new pictures of the same people, because labels are classes. All of it is a function of
(seed, identity, image), so a restarted training makes the very faces it would have seen.

Readers ask for a window only when the one before is being used up, and hold few requests open, so no actor works
further ahead than `data.readers` windows of each rank.
"""

import collections
import contextlib
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from facelib.config import AlignSettings, GenerateSettings, Settings
from facelib.data import DatasetError, ImageSpec
from ray_jobs.datasets.generation import AlignedChunk, AlignerActor, Chunk, GeneratorActor, faces_spec
from ray_jobs.training.faces import StoredFaces, TrainingFaces
from ray_jobs.training.sampler import RowGroup, SamplingSpec, ShuffleWindow

REQUESTS_PER_ACTOR = 2  # of one reader: one that is worked on, one that waits


def training_faces(settings: Settings, pool: str = "") -> TrainingFaces:
    """The faces that the settings train on: stored, or with `data.stream` made on the way by the pool of that name."""
    if settings.data.stream:
        return OnlineFaces(settings, FacePool(pool, settings.generate.actors, settings.align.actors))
    return StoredFaces(settings.path(settings.data.dataset))


def training_faces_spec(settings: Settings, faces: TrainingFaces) -> dict[str, Any]:
    """What decides the bytes of those faces, for the spec of a training."""
    if not settings.data.stream:
        assert isinstance(faces, StoredFaces)
        return {"data.dataset parts": [p.sha256 for p in faces.dataset.manifest.parts]}
    cfg = settings.generate
    own = {name: getattr(cfg, name) for name in ("first_identity", "identities", "identities_per_task")}
    return {f"data.stream {name}": value for name, value in {**faces_spec(settings), **own}.items()}


class OnlineFaces:
    """Made faces as `TrainingFaces`: a row group is what one task of the generator makes.

    Args:
        pool: makes them; it need not run where nothing is read.
    """

    stall_timeout = 1800.0  # A window takes as long as its generators take, and another reader would ask the same ones.

    def __init__(self, settings: Settings, pool: "FacePool") -> None:
        self.cfg, self.pool = settings.generate, pool
        self.uri = f"generator {self.cfg.generator}"
        self.identities = self.cfg.identities
        self.image_spec = ImageSpec(template=settings.align.template, size=settings.align.size)

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """One epoch's tasks, each of `generate.identities_per_task` identities."""
        per_task, images = self.cfg.identities_per_task, self.cfg.images_per_identity
        counts = [min(per_task, self.identities - first) for first in range(0, self.identities, per_task)]
        return [("", number, count, count * images) for number, count in enumerate(counts)]

    def chunk(self, group: RowGroup, epoch: int, sampling: SamplingSpec) -> Chunk:
        """What a row group stands for in an epoch (counted from 0)."""
        people, pictures = (epoch, 0) if sampling.views == 2 else (0, epoch)
        first = self.cfg.first_identity + people * self.identities + group.first_class
        return Chunk(group.index, first, group.identities, pictures * self.cfg.images_per_identity)

    def read(self, window: ShuffleWindow, sampling: SamplingSpec) -> tuple[pa.Array, np.ndarray]:
        """Have the window's faces made; the label is the identity's number, counted from the first of the training.

        Raises:
            DatasetError: every picture of the window was rejected.
        """
        chunks = [self.chunk(group, window.epoch, sampling) for group in window.groups]
        made = self.pool.make(chunks)
        table = pa.concat_tables([aligned.table.select(["image", "identity"]) for aligned in made])
        if not len(table):
            reasons = collections.Counter[str]()
            for aligned in made:
                reasons.update(aligned.rejected)
            raise DatasetError(
                f"{self.uri}: every picture of {sum(c.count for c in chunks)} identities from {chunks[0].first} on was "
                f"rejected ({', '.join(f'{k} {v}' for k, v in sorted(reasons.items()))}): see align.min_score and the "
                "generator's settings"
            )
        return table["image"].combine_chunks(), table["identity"].to_numpy() - self.cfg.first_identity


@dataclass(frozen=True)
class FacePool:
    """Generator and aligner actors that readers on any node find by name: plain data, as the trainer's settings are."""

    name: str
    generators: int
    aligners: int

    @classmethod
    @contextlib.contextmanager
    def start(cls, settings: Settings) -> Iterator["FacePool"]:
        """Actors for as long as the block lasts. One that dies is started again and asked again what it was asked."""
        generate, align = settings.generate, settings.align
        pool = cls(f"faces-{uuid.uuid4().hex[:12]}", generate.actors, align.actors)
        kinds: tuple[tuple[Sequence[str], type, tuple[Any, ...], GenerateSettings | AlignSettings], ...] = (
            (pool._names("generate"), GeneratorActor, (settings.seed, generate), generate),
            (pool._names("align"), AlignerActor, (align, generate.generator, generate.jpeg_quality), align),
        )
        actors = [
            ray.remote(kind)
            .options(
                name=name,
                num_cpus=cfg.cpus_per_actor,
                num_gpus=cfg.gpus_per_actor,
                max_restarts=-1,
                max_task_retries=-1,
            )
            .remote(*arguments)
            for names, kind, arguments, cfg in kinds
            for name in names
        ]
        try:
            yield pool
        finally:
            for actor in actors:
                ray.kill(actor)

    def make(self, chunks: Sequence[Chunk]) -> list[AlignedChunk]:
        """Faces of `chunks`, in their order."""
        generators, aligners = ([ray.get_actor(n) for n in self._names(role)] for role in ("generate", "align"))
        # A request goes to whoever has finished one, so a slow actor or node holds nobody up.
        free = collections.deque(generators * REQUESTS_PER_ACTOR)
        waiting: dict[Any, tuple[int, Any]] = {}
        made: dict[int, AlignedChunk] = {}

        def collect() -> None:
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            number, generator = waiting.pop(done)
            made[number] = AlignedChunk.from_row(ray.get(done))
            free.append(generator)

        for number, chunk in enumerate(chunks):
            if not free:
                collect()
            generator = free.popleft()
            pictures = generator.__call__.remote(asdict(chunk))
            waiting[aligners[number % len(aligners)].__call__.remote(pictures)] = number, generator
        while waiting:
            collect()
        return [made[number] for number in range(len(chunks))]

    def _names(self, role: str) -> list[str]:
        count = self.generators if role == "generate" else self.aligners
        return [f"{self.name}-{role}-{number}" for number in range(count)]
