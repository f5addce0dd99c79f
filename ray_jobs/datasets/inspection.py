"""Measuring sets of faces on actors: batches of encoded images → measures, hashes and embeddings.

Shape legend: N faces of a batch or set, D embedding size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.config import InspectSettings, Settings
from facelib.data import FaceDataset, ImageSpec, decode_image
from facelib.evaluation.protocols import parse_spec
from facelib.inspection import MEASURES, SetReport, count_repeats, inspect_identities, measure_faces, summarize
from facelib.sources.bins import is_bin
from facelib.sources.duplicates import perceptual_hash
from facelib.sources.pair_sets import read_bins
from ray_jobs.actors import ActorPool
from ray_jobs.embedding.models import EmbeddingModel
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport
from ray_jobs.resources import ActorRequest

BIN_BATCH = 512  # Images of a .bin in one batch.


@dataclass(frozen=True)
class FaceBatch:
    """What one call measures: a row group of a dataset, or encoded images without identities."""

    uri: str = ""
    part: str = ""
    group: int = 0
    images: tuple[bytes, ...] = ()

    def read(self) -> dict[str, Any]:
        """`images` (encoded), and of a dataset `identities` int64 [N] and, if known, `landmarks` [N, 5, 2]."""
        if not self.uri:
            return {"images": list(self.images)}
        table = FaceDataset(self.uri).read_row_groups(self.part, [self.group], ["image", "identity", "landmarks"])
        landmarks = np.array(table["landmarks"].to_pylist(), np.float32).reshape(-1, 5, 2)
        data = {"images": table["image"].to_pylist(), "identities": table["identity"].to_numpy()}
        # Crops that were imported as they are have no landmarks.
        return data | {"landmarks": landmarks} if np.isfinite(landmarks).all() else data


@dataclass(frozen=True)
class FaceSet:
    """A set to inspect.

    Attributes:
        counts: of its manifest (requested, aligned, rejected:<reason>), or aligned faces only.
        batches: of all faces that are measured.
    """

    name: str
    counts: dict[str, int]
    image_spec: ImageSpec
    batches: list[FaceBatch]

    def face_loader(self, measured: dict[str, NDArray[Any]]) -> Callable[[int], NDArray[np.uint8]]:
        """Function of a face's row in `measured` to its RGB image; reads each batch once."""
        cache: dict[int, list[bytes]] = {}

        def load(row: int) -> NDArray[np.uint8]:
            batch, index = (int(number) for number in measured["location"][row])
            if batch not in cache:
                cache[batch] = self.batches[batch].read()["images"]
            return decode_image(cache[batch][index])

        return load


def open_face_set(settings: Settings, text: str) -> FaceSet:
    """Open a set by its specification; of a large dataset, row groups at even distances.

    Raises:
        JobError: the set has no faces.
    """
    spec, limit = parse_spec(text), settings.inspect.images
    if is_bin(spec.path):
        try:
            found, _, size = read_bins(spec.path, spec.name)
        except ValueError as error:
            raise JobError(f"inspect.sets: {error}") from None
        images = list(dict.fromkeys(found))  # The same image may be in several pairs.
        images = images[:: -(-len(images) // limit)]
        batches = [FaceBatch(images=tuple(images[b : b + BIN_BATCH])) for b in range(0, len(images), BIN_BATCH)]
        image_spec = ImageSpec(template=spec.options.get("template", "arcface"), size=size)
        return FaceSet(spec.name, {"aligned": len(images)}, image_spec, batches)
    dataset = FaceDataset(settings.path(spec.path))
    groups = [group for group in dataset.row_groups() if group[3]]
    if not groups:
        raise JobError(f"inspect.sets: {dataset.folder.uri} has no faces; its manifest counts the reasons")
    step = -(-dataset.manifest.images // limit)
    batches = [FaceBatch(dataset.folder.uri, part, index) for part, index, _, _ in groups[::step]]
    return FaceSet(spec.name, dataset.manifest.counts, dataset.image_spec, batches)


def measure_set(
    face_set: FaceSet, cfg: InspectSettings, model: str, autoscaling: bool = False, normalization: str = "auto"
) -> dict[str, Any]:
    """Measure all faces of a set.

    Args:
        model: path or URI of a checkpoint; empty: no embeddings.
        autoscaling: the cluster grows on demand: wait for actors that do not fit now.

    Returns:
        Arrays of N rows: every measure, `hash`, `location` (batch, index within it), and where known `identity` and
        `embedding`.
    """
    request = ActorRequest("inspect", cfg, min(cfg.actors, len(face_set.batches)))
    results: dict[int, dict[str, NDArray[Any]]] = {}
    with (
        ActorPool(InspectionActor, (cfg, model, normalization), request, autoscaling) as pool,
        ProgressReport(face_set.name, len(face_set.batches), "row groups") as progress,
    ):
        for number, result in pool.map("inspect", ((batch,) for batch in face_set.batches)):
            rows = len(result["hash"])
            location = np.stack([np.full(rows, number), np.arange(rows)], axis=1)
            results[number] = {**result, "location": location}
            progress.advance(1)
    ordered = [results[number] for number in range(len(results))]
    # Some imported faces have landmarks and others do not: only measures that all faces have are kept.
    keys = [key for key in ordered[0] if all(key in result for result in ordered)]
    return {key: np.concatenate([result[key] for result in ordered]) for key in keys}


class InspectionActor:
    """Actor: measures and embeds the faces of a batch."""

    def __init__(self, cfg: InspectSettings, model: str, normalization: str = "auto") -> None:
        import cv2

        cv2.setNumThreads(1)
        self.network = EmbeddingModel("model", model, normalization=normalization).load(cfg) if model else None

    def inspect(self, batch: FaceBatch) -> dict[str, NDArray[Any]]:
        """Arrays [N]: measures, `hash` [N, 32], and where known `identity` and `embedding` [N, D]."""
        data = batch.read()
        images = np.stack([decode_image(image) for image in data["images"]])
        result: dict[str, NDArray[Any]] = dict(measure_faces(images, data.get("landmarks")))
        result["hash"] = np.stack([perceptual_hash(image) for image in images])
        if "identities" in data:
            result["identity"] = data["identities"]
        if self.network is not None:
            result["embedding"] = self.network(images, "none")
        return result


def make_set_report(face_set: FaceSet, measured: dict[str, Any], cfg: InspectSettings, seed: int) -> SetReport:
    """Statistics of a measured set.

    Args:
        seed: of the pairs that are drawn.
    """
    identity = measured.get("identity")
    identities = None
    if identity is not None and "embedding" in measured:
        identities = inspect_identities(measured["embedding"], identity, cfg.pairs, seed)
    faces = len(measured["hash"])
    # Without identities, every image counts as its own identity.
    numbers = np.arange(faces) if identity is None else identity
    return SetReport(
        name=face_set.name,
        counts=face_set.counts,
        faces=faces,
        measures={name: summarize(measured[name], identity) for name in MEASURES if name in measured},
        repeats=count_repeats(measured["hash"], numbers, cfg.near_bits),
        identities=identities,
    )
