"""Embeddings of several evaluation sets by several models, on one pool of actors, cached on disk.

Work is cut into batches. An actor decodes the next batches while its network runs, and processes batches of any set
and model, so no set waits for another to finish. The driver holds only encoded batches in flight and finished
embeddings; a killed job finds its finished parts in the cache.

Shape legend: N faces, D embedding size.
"""

import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from facelib.config import EvaluateSettings
from facelib.data import DatasetError, Folder
from facelib.evaluation.protocols import EvaluationSet, FaceImages
from facelib.utils.flip import FlipRule, flip_key
from ray_jobs.actors import ActorPool
from ray_jobs.embedding.models import EmbeddingModel, Network
from ray_jobs.progress import ProgressReport
from ray_jobs.resources import ActorRequest

PART_FACES = 4096  # Faces in one cached part.
MAX_LOADED_NETWORKS = 2  # Per actor, so that changing from one model to the next costs one load.


class EmbeddingActor:
    """Actor whose calls run in threads: several decode while one at a time uses the network."""

    def __init__(self, models: Sequence[EmbeddingModel], cfg: EvaluateSettings) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.models, self.cfg = models, cfg
        self.networks: dict[int, Network] = {}
        self.network_lock = threading.Lock()

    def embed(self, model: int, faces: FaceImages, flip: FlipRule) -> NDArray[np.float32]:
        """Embeddings [N, D] of `faces` by model number `model`."""
        images = faces.decode()
        with self.network_lock:
            if model not in self.networks:
                while len(self.networks) >= MAX_LOADED_NETWORKS:
                    self.networks.pop(next(iter(self.networks)))
                self.networks[model] = self.models[model].load(self.cfg)
            return named_errors(self.networks[model], images, flip, self.models[model].name, faces.name_of)


def named_errors(
    network: Network, images: NDArray[np.uint8], flip: FlipRule, model: str, name_of: Callable[[int], str]
) -> NDArray[np.float32]:
    """Embeddings [N, D] of images; the error at one that is not finite says which image and model it is.

    Raises:
        ValueError: names the first image whose embedding is not finite.
    """
    from facelib.embedding import NonFiniteEmbeddingError

    try:
        return network(images, flip)
    except NonFiniteEmbeddingError as error:
        raise ValueError(f"{name_of(error.image)}, model {model}: {error.reason}") from None


@dataclass(eq=False)
class SetEmbeddings:
    """Embeddings of one set by one model, collected from cache and actors.

    Attributes:
        model_number: of the model, for actors.
        key: hash of everything that decides the embeddings, names the cached parts.
        missing: number of faces without an embedding yet.
        embeddings: [N, D]; None before the first batch, and after `take`.
    """

    model: EmbeddingModel
    face_set: EvaluationSet
    model_number: int
    flip: FlipRule
    key: str
    missing: int
    embeddings: NDArray[np.float32] | None = None

    def put(self, begin: int, batch: NDArray[np.float32]) -> None:
        """Store embeddings of the faces from `begin` on."""
        if self.embeddings is None:
            self.embeddings = np.empty((len(self.face_set.faces), batch.shape[1]), np.float32)
        self.embeddings[begin : begin + len(batch)] = batch
        self.missing -= len(batch)

    def take(self) -> tuple[EmbeddingModel, EvaluationSet, NDArray[np.float32]]:
        """What `embed_sets` yields; releases the embeddings, so that only the caller holds them."""
        assert self.embeddings is not None
        embeddings, self.embeddings = self.embeddings, None
        return self.model, self.face_set, embeddings

    def load_cached(self, cache: Folder | None) -> list[tuple[int, int]]:
        """Put what the cache has in place; returns the ranges of faces that it lacks."""
        count = len(self.face_set.faces)
        ranges = [(begin, min(begin + PART_FACES, count)) for begin in range(0, count, PART_FACES)]
        if cache is None:
            return ranges
        missing = []
        for begin, end in ranges:
            try:
                part = np.load(io.BytesIO(cache.read(self._part_name(begin))), allow_pickle=False)
                if part.dtype != np.float32 or part.ndim != 2 or len(part) != end - begin:
                    raise ValueError("unexpected type or shape")
                if not np.isfinite(part).all():
                    raise ValueError("not finite")
                self.put(begin, part)
            except (DatasetError, ValueError, EOFError):
                missing.append((begin, end))  # Not cached, or damaged: it is computed again.
        return missing

    def store(self, cache: Folder, begin: int, end: int) -> None:
        """Write one finished part into the cache."""
        assert self.embeddings is not None
        data = io.BytesIO()
        np.save(data, self.embeddings[begin:end], allow_pickle=False)
        cache.write(self._part_name(begin), data.getvalue())

    def _part_name(self, begin: int) -> str:
        return f"{self.key}-{begin:09d}.npy"


Part = tuple[SetEmbeddings, int, int]  # Faces `begin` to `end` (exclusive) of a set.


def embed_sets(
    work: Sequence[tuple[EmbeddingModel, EvaluationSet]],
    cfg: EvaluateSettings,
    cache: Folder | None,
    autoscaling: bool = False,
) -> Iterator[tuple[EmbeddingModel, EvaluationSet, NDArray[np.float32]]]:
    """Embed each set by each model; a set's embeddings [N, D] come as soon as they are complete.

    Args:
        work: models (of different names) and sets in any combination.
        cache: folder of parts that were embedded before; None: no cache.
        autoscaling: the cluster grows on demand: wait for actors that do not fit now.

    Raises:
        JobError: the actors do not fit on the cluster.
    """
    models = list({model.name: model for model, _ in work}.values())
    numbers = {model.name: number for number, model in enumerate(models)}
    hashes = {model.name: model.fingerprint() if cache else "" for model in models}
    parts: list[Part] = []
    for model, face_set in work:
        flip = face_set.flip_rule
        inputs = [hashes[model.name], face_set.faces.fingerprint if cache else "", flip_key(flip), cfg.precision]
        key = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:32]
        result = SetEmbeddings(model, face_set, numbers[model.name], flip, key, missing=len(face_set.faces))
        ranges = result.load_cached(cache)
        parts += [(result, begin, end) for begin, end in ranges]
        if not ranges:
            yield result.take()
    if not parts:
        return
    with ProgressReport("embedding", sum(end - begin for _, begin, end in parts)) as progress:
        for result, begin, end in embed_parts(parts, models, cfg, progress, autoscaling):
            if cache is not None:
                result.store(cache, begin, end)
            if result.missing == 0:
                yield result.take()


def embed_parts(
    parts: Sequence[Part],
    models: Sequence[EmbeddingModel],
    cfg: EvaluateSettings,
    progress: ProgressReport,
    autoscaling: bool,
) -> Iterator[Part]:
    """Embed all parts, batch by batch; yields each part when its last batch has arrived."""
    batches = [
        (number, start, min(start + cfg.batch_size, end))
        for number, (_, begin, end) in enumerate(parts)
        for start in range(begin, end, cfg.batch_size)
    ]
    unfinished = np.bincount([number for number, _, _ in batches])
    # One call per thread: one uses the network, `decoders` read and decode.
    calls = (
        (parts[number][0].model_number, parts[number][0].face_set.faces.part(start, end), parts[number][0].flip)
        for number, start, end in batches
    )
    request = ActorRequest("evaluate", cfg, min(cfg.actors, len(batches)))
    with ActorPool(EmbeddingActor, (models, cfg), request, autoscaling, concurrency=1 + cfg.decoders) as pool:
        for call, embeddings in pool.map("embed", calls):
            number, start, end = batches[call]
            parts[number][0].put(start, embeddings)
            progress.advance(end - start)
            unfinished[number] -= 1
            if unfinished[number] == 0:
                yield parts[number]
