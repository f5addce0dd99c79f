"""Embeddings of many sets by many models at once, on one pool of Ray actors, kept in a cache.

Work is cut into batches. An actor decodes the next batches while its network runs, and takes whatever batch comes next,
of any set and model, so none waits for another to finish. Nothing but encoded batches in flight and finished
embeddings is held; a killed job finds its finished parts in the cache.

Shape legend: N faces, D embedding size.
"""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray

from facelib.config import EvaluateSettings, InspectSettings
from facelib.data import DatasetError, Folder
from facelib.data.storage import local_copy
from facelib.evaluation import PixelEmbedding, WhitenedPixels
from facelib.evaluation.protocols import EvaluationSet, FaceImages
from ray_jobs.progress import ProgressReport
from ray_jobs.resources import ActorRequest, check_resources

PART = 4096  # Faces in one cached part.
LOADED = 2  # Networks an actor keeps, so that changing from one model to the next costs one load.

Network = Callable[[np.ndarray, bool], np.ndarray]


@dataclass(frozen=True)
class EmbeddingModel:
    """Something that embeds faces.

    Args:
        name: in tables.
        path: checkpoint, a path or URI; its architecture for an untrained network; empty for pixels.
        untrained: the same architecture with random weights.
        pixels: a baseline without a network.
    """

    name: str
    path: str = ""
    untrained: bool = False
    pixels: PixelEmbedding | WhitenedPixels | None = None

    @property
    def trained(self) -> bool:
        """Whether it is a model to judge, not a baseline."""
        return not self.untrained and self.pixels is None

    def fingerprint(self) -> str:
        """Hash of everything that decides its embeddings, but precision and flip."""
        digest = hashlib.sha256(f"{self.untrained}".encode())
        if self.pixels is not None:
            for name, value in sorted(vars(self.pixels).items()):
                digest.update(name.encode() + np.asarray(value).tobytes())
            digest.update(type(self.pixels).__name__.encode())
        else:
            with local_copy(self.path) as path:
                digest.update(path.read_bytes())
        return digest.hexdigest()

    def load(self, cfg: EvaluateSettings | InspectSettings) -> Network:
        """What turns uint8 [N, H, W, 3] and flip into embeddings [N, D], on the GPU if the actor has one."""
        if self.pixels is not None:
            return self.pixels.embed
        import torch

        from facelib.embedding import embed_images, load_face_model
        from facelib.models import build_backbone, read_checkpoint
        from facelib.utils.devices import actor_device

        device = actor_device(cfg.gpus_per_actor, cfg.cpus_per_actor)
        if self.untrained:
            checkpoint = read_checkpoint(self.path)
            torch.manual_seed(0)
            backbone = build_backbone(checkpoint.name, **checkpoint.settings)
        else:
            backbone = load_face_model(self.path)
        backbone = backbone.to(device).eval().to(memory_format=torch.channels_last)
        return lambda images, flip: embed_images(backbone, images, flip, cfg.batch_size, cfg.precision)


class Embedder:
    """Ray actor. Its calls run in threads: several decode while one, at a time, has the network."""

    def __init__(self, models: Sequence[EmbeddingModel], cfg: EvaluateSettings) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.models, self.cfg = models, cfg
        self.networks: dict[int, Network] = {}
        self.turn = threading.Lock()

    def embed(self, model: int, faces: FaceImages, flip: bool) -> np.ndarray:
        """float32 [N, D]."""
        pixels = faces.decode()
        with self.turn:
            if model not in self.networks:
                while len(self.networks) >= LOADED:
                    self.networks.pop(next(iter(self.networks)))
                self.networks[model] = self.models[model].load(self.cfg)
            return self.networks[model](pixels, flip)


@dataclass(eq=False)
class _Job:
    """One set by one model: where its embeddings are collected."""

    judged: EmbeddingModel
    face_set: EvaluationSet
    model: int  # its number among the models
    flip: bool
    key: str
    missing: int
    embeddings: np.ndarray | None = None

    def put(self, begin: int, piece: np.ndarray) -> None:
        if self.embeddings is None:
            self.embeddings = np.empty((len(self.face_set.faces), piece.shape[1]), np.float32)
        self.embeddings[begin : begin + len(piece)] = piece
        self.missing -= len(piece)

    def finished(self) -> tuple[EmbeddingModel, EvaluationSet, np.ndarray]:
        """What `embed_sets` yields; the memory is the caller's from here on."""
        assert self.embeddings is not None
        embeddings, self.embeddings = self.embeddings, None
        return self.judged, self.face_set, embeddings


def embed_sets(
    work: Sequence[tuple[EmbeddingModel, EvaluationSet]],
    cfg: EvaluateSettings,
    cache: Folder | None,
    grows: bool = False,
) -> Iterator[tuple[EmbeddingModel, EvaluationSet, np.ndarray]]:
    """Embed each set by each model; a set's embeddings [N, D] come as soon as they are complete.

    Args:
        work: what to embed, models (of different names) and sets in any combination.
        cache: folder of parts embedded before; None: no cache.
        grows: the cluster does; actors that have no room now are waited for.
    """
    models = list({model.name: model for model, _ in work}.values())
    numbers = {model.name: number for number, model in enumerate(models)}
    hashes = {model.name: model.fingerprint() if cache else "" for model in models}
    tasks = []
    for model, face_set in work:
        flip = cfg.flip if face_set.flip is None else face_set.flip
        parts = [hashes[model.name], face_set.faces.fingerprint if cache else "", flip, cfg.precision]
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
        job = _Job(model, face_set, numbers[model.name], flip, key, missing=len(face_set.faces))
        ranges = _missing_parts(job, cache)
        tasks += [(job, begin, end) for begin, end in ranges]
        if not ranges:
            yield job.finished()
    if not tasks:
        return
    with ProgressReport("embedding", sum(end - begin for _, begin, end in tasks)) as progress:
        for job, begin, end in _run(tasks, models, cfg, progress, grows):
            if cache is not None:
                _store(cache, job, begin, end)
            if job.missing == 0:
                yield job.finished()


def _run(
    tasks: Sequence[tuple[_Job, int, int]],
    models: Sequence[EmbeddingModel],
    cfg: EvaluateSettings,
    progress: ProgressReport,
    grows: bool,
) -> Iterator[tuple[_Job, int, int]]:
    """Work the parts off, batch by batch; yields each part when its last batch has come."""
    batches = [
        (number, job, start, min(start + cfg.batch_size, end))
        for number, (job, begin, end) in enumerate(tasks)
        for start in range(begin, end, cfg.batch_size)
    ]
    open_batches = np.bincount([number for number, *_ in batches])
    actor_class = ray.remote(
        num_cpus=cfg.cpus_per_actor,
        num_gpus=cfg.gpus_per_actor,
        max_concurrency=1 + cfg.decoders,
        max_restarts=3,
        max_task_retries=3,
    )(Embedder)
    count = min(cfg.actors, len(batches))
    check_resources(grows, ActorRequest("evaluate", cfg, count))
    actors = [actor_class.remote(models, cfg) for _ in range(count)]
    waiting, running = iter(batches), {}

    def submit(actor: Any) -> None:
        batch = next(waiting, None)
        if batch is not None:
            _, job, start, end = batch
            running[actor.embed.remote(job.model, job.face_set.faces.part(start, end), job.flip)] = (actor, *batch)

    try:
        for _ in range(1 + cfg.decoders):
            for actor in actors:
                submit(actor)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            actor, number, job, start, end = running.pop(done)
            submit(actor)
            job.put(start, ray.get(done))
            progress.advance(end - start)
            open_batches[number] -= 1
            if open_batches[number] == 0:
                yield tasks[number]
    finally:
        for actor in actors:
            ray.kill(actor)


def _missing_parts(job: _Job, cache: Folder | None) -> list[tuple[int, int]]:
    """Ranges that the cache does not hold; those it holds are put in place."""
    ranges = [(begin, min(begin + PART, len(job.face_set.faces))) for begin in range(0, len(job.face_set.faces), PART)]
    if cache is None:
        return ranges
    missing = []
    for begin, end in ranges:
        try:
            piece = np.load(io.BytesIO(cache.read(_part_name(job, begin))), allow_pickle=False)
            if piece.dtype != np.float32 or piece.ndim != 2 or len(piece) != end - begin:
                raise ValueError("another shape")
            job.put(begin, piece)
        except (DatasetError, ValueError, EOFError):
            missing.append((begin, end))  # Not there, or damaged: it is made again.
    return missing


def _store(cache: Folder, job: _Job, begin: int, end: int) -> None:
    assert job.embeddings is not None
    data = io.BytesIO()
    np.save(data, job.embeddings[begin:end], allow_pickle=False)
    cache.write(_part_name(job, begin), data.getvalue())


def _part_name(job: _Job, begin: int) -> str:
    return f"{job.key}-{begin:09d}.npy"
