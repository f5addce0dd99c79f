"""Quality report of face sets: what was detected, pose, light, expression, sharpness, near copies, and identities.

Measures inspect.sets side by side, stored datasets of any generator or .bin files. With inspect.model, a backbone says
how far their people differ. Writes <output>/inspection: report.json and, for each set, contact sheets of its extremes,
look-alikes and scattered identities.
"""

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console

from facelib.config import InspectSettings, Settings, SettingsError
from facelib.data import FaceDataset, Folder, ImageSpec, decode_image
from facelib.evaluation.protocols import parse_spec
from facelib.inspection import (
    MEASURES,
    SetReport,
    compare_table,
    count_repeats,
    inspect_identities,
    measure_faces,
    summarize,
)
from facelib.plots.contact_sheet import contact_sheet
from facelib.sources import read_bin
from facelib.sources.duplicates import perceptual_hash
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.embedding.pool import EmbeddingModel
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport
from ray_jobs.resources import ActorRequest, check_resources
from ray_jobs.results import JobResult
from ray_jobs.validation import check_checkpoint_exists, check_sets, check_unique, checked_field

COLUMNS = 8  # pictures in a row of a contact sheet
BIN_CHUNK = 512


@dataclass(frozen=True)
class FaceBatch:
    """What one task measures: a row group of a dataset, or encoded pictures without identity."""

    uri: str = ""
    part: str = ""
    group: int = 0
    images: tuple[bytes, ...] = ()

    def read(self) -> dict[str, Any]:
        """`images` (encoded), and for a dataset `identities` int64 [N] and, if known, `landmarks` [N, 5, 2]."""
        if not self.uri:
            return {"images": list(self.images)}
        table = FaceDataset(self.uri).read_row_groups(self.part, [self.group], ["image", "identity", "landmarks"])
        landmarks = np.array(table["landmarks"].to_pylist(), np.float32).reshape(-1, 5, 2)
        data = {"images": table["image"].to_pylist(), "identities": table["identity"].to_numpy()}
        # Imported crops that no detector looked at have none.
        return data | {"landmarks": landmarks} if np.isfinite(landmarks).all() else data


@dataclass(frozen=True)
class FaceSet:
    """A set to look at."""

    name: str
    counts: dict[str, int]
    image_spec: ImageSpec
    pieces: list[FaceBatch]


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check that there are sets to measure, each under its own name, and that the checkpoint exists.

    Args:
        upcoming: checkpoints that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    texts = settings.inspect.sets
    if not texts:
        raise SettingsError("inspect.sets: empty; give at least one set to inspect")
    with checked_field("inspect.sets"):
        names = [parse_spec(text).name for text in texts]
    check_unique("inspect.sets", names, "give the sets names, name=path")
    check_sets("inspect.sets", [text for text in texts if text.endswith(".bin")])
    check_checkpoint_exists(settings, "inspect.model", settings.inspect.model, upcoming)


def inspect_dataset(settings: Settings, run: Run) -> JobResult:
    """Measure all sets and compare them."""
    cfg = settings.inspect
    sets = [open_face_set(settings, text) for text in cfg.sets]
    model = settings.path(cfg.model) if cfg.model else ""
    if model:
        _check_image_spec(model, sets)
    folder = Folder(settings.path("inspection")).create()
    reports: dict[str, SetReport] = {}
    metrics: dict[str, float] = {}
    for face_set in sets:
        found = measure(face_set, cfg, model, settings.ray.autoscaling)
        reports[face_set.name] = report_of(face_set, found, cfg, settings.seed)
        with tempfile.TemporaryDirectory() as temporary:
            for path in draw_sheets(face_set, found, reports[face_set.name], Path(temporary)):
                run.log_file(path, "pictures")
                folder.write(path.name, path.read_bytes())
        numbers = {f"{face_set.name}/{name}": number for name, number in reports[face_set.name].numbers().items()}
        run.log_metrics(numbers)
        metrics |= numbers
    # Logs have no width of their own; 80 columns would break every row.
    Console(width=None if Console().is_terminal else 200).print(compare_table(reports))
    tree = {"model": model, "sets": {name: report.to_dict() for name, report in reports.items()}, "units": MEASURES}
    folder.write("report.json", json.dumps(tree, indent=1).encode())
    run.log_json(tree, "report.json")
    return JobResult(written=(f"{folder.uri}/report.json",), metrics=metrics)


def open_face_set(settings: Settings, text: str) -> FaceSet:
    """A set by its specification; of a large dataset, row groups at even distances."""
    spec, limit = parse_spec(text), settings.inspect.images
    if spec.path.endswith(".bin"):
        # A picture may stand in several pairs.
        images = list(dict.fromkeys(image for file in spec.files for image in read_bin(file)[0]))
        if not images:
            raise JobError(f"inspect.sets: {spec.path} holds no pictures")
        images = images[:: -(-len(images) // limit)]
        pieces = [FaceBatch(images=tuple(images[b : b + BIN_CHUNK])) for b in range(0, len(images), BIN_CHUNK)]
        image_spec = ImageSpec(template=spec.options.get("template", "arcface"), size=decode_image(images[0]).shape[0])
        return FaceSet(spec.name, {"aligned": len(images)}, image_spec, pieces)
    dataset = FaceDataset(settings.path(spec.path))
    groups = [group for group in dataset.row_groups() if group[3]]
    if not groups:
        raise JobError(f"inspect.sets: {dataset.folder.uri} has no faces; its manifest counts why")
    step = -(-dataset.manifest.images // limit)
    pieces = [FaceBatch(dataset.folder.uri, part, index) for part, index, _, _ in groups[::step]]
    return FaceSet(spec.name, dataset.manifest.counts, dataset.image_spec, pieces)


def measure(face_set: FaceSet, cfg: InspectSettings, model: str, grows: bool = False) -> dict[str, Any]:
    """Arrays of all faces of a set, row by row: measures, `hash`, `place` (piece, row), `identity`, `embedding`."""
    actor = ray.remote(num_cpus=cfg.cpus_per_actor, num_gpus=cfg.gpus_per_actor, max_restarts=3, max_task_retries=3)(
        Inspector
    )
    count = min(cfg.actors, len(face_set.pieces))
    check_resources(grows, ActorRequest("inspect", cfg, count))
    actors = [actor.remote(cfg, model) for _ in range(count)]
    pool = ray.util.ActorPool(actors)
    found: list[dict[str, np.ndarray]] = []
    try:
        with ProgressReport(face_set.name, len(face_set.pieces), "row groups") as progress:
            for number, piece in enumerate(pool.map(lambda a, p: a.inspect.remote(p), face_set.pieces)):
                rows = len(piece["hash"])
                found.append({**piece, "place": np.stack([np.full(rows, number), np.arange(rows)], axis=1)})
                progress.advance(1)
    finally:
        for each in actors:
            ray.kill(each)
    # Of imported faces some have landmarks and some have none: what all have is compared.
    keys = [key for key in found[0] if all(key in piece for piece in found)]
    return {key: np.concatenate([piece[key] for piece in found]) for key in keys}


class Inspector:
    """Ray actor: measures and embeds the faces of a piece."""

    def __init__(self, cfg: InspectSettings, model: str) -> None:
        import cv2

        cv2.setNumThreads(1)
        self.network = EmbeddingModel("model", model).load(cfg) if model else None

    def inspect(self, piece: FaceBatch) -> dict[str, np.ndarray]:
        """Arrays [N] of the piece's faces: measures, `hash` [N, 32], `identity` and `embedding` [N, D] where known."""
        data = piece.read()
        images = np.stack([decode_image(image) for image in data["images"]])
        found: dict[str, np.ndarray] = dict(measure_faces(images, data.get("landmarks")))
        found["hash"] = np.stack([perceptual_hash(image) for image in images])
        if "identities" in data:
            found["identity"] = data["identities"]
        if self.network is not None:
            found["embedding"] = self.network(images, False)
        return found


def _check_image_spec(model: str, sets: Sequence[FaceSet]) -> None:
    from facelib.models import read_checkpoint

    trained = {k: v for k, v in (read_checkpoint(model).image_spec or {}).items() if k in ImageSpec.model_fields}
    for face_set in sets:
        # What a checkpoint does not say (published ones say nothing) is taken to be as the set has it.
        image_spec = ImageSpec(**{**face_set.image_spec.model_dump(), **trained})
        image_spec.require(face_set.image_spec, f"model {model}", f"set {face_set.name}")


def report_of(face_set: FaceSet, found: dict[str, Any], cfg: InspectSettings, seed: int) -> SetReport:
    """Numbers of a measured set."""
    identities = found.get("identity")
    judged = None
    if identities is not None and "embedding" in found:
        judged = inspect_identities(found["embedding"], identities, cfg.pairs, seed)
    # Without identities every picture counts as a person of its own.
    numbers = np.arange(len(found["hash"])) if identities is None else identities
    return SetReport(
        name=face_set.name,
        counts=face_set.counts,
        faces=len(found["hash"]),
        measures={name: summarize(found[name], identities) for name in MEASURES if name in found},
        repeats=count_repeats(found["hash"], numbers, cfg.near_bits),
        identities=judged,
    )


def draw_sheets(face_set: FaceSet, found: dict[str, Any], report: SetReport, folder: Path) -> Iterator[Path]:
    """Contact sheets: extremes of every measure; look-alikes and scattered identities; near copies."""
    rows: list[tuple[str, Sequence[int]]] = []
    for name in report.measures:
        order = np.argsort(found[name])
        for label, chosen in (("lowest", order[:COLUMNS]), ("highest", order[::-1][:COLUMNS])):
            rows.append((f"{label} {name.replace('_', ' ')}", chosen.tolist()))
    yield _sheet(face_set, found, rows, folder / f"extremes_{face_set.name}.png", "extremes")
    if report.identities is not None:
        rows, half = [], COLUMNS // 2
        for a, b, similarity in report.identities.lookalikes:
            both = [np.flatnonzero(found["identity"] == i)[:half].tolist() for i in (a, b)]
            rows.append((f"alike {similarity:.2f}: {a}, {b}", both[0] + both[1]))
        for identity, similarity in report.identities.scattered:
            own = np.flatnonzero(found["identity"] == identity)[:COLUMNS]
            rows.append((f"scattered {similarity:.2f}: {identity}", own.tolist()))
        yield _sheet(face_set, found, rows, folder / f"identities_{face_set.name}.png", "identities")
    if report.repeats.pairs:
        rows = [(f"{bits} bits apart", [a, b]) for a, b, bits in report.repeats.pairs[:COLUMNS]]
        yield _sheet(face_set, found, rows, folder / f"copies_{face_set.name}.png", "near copies across identities")


def _sheet(
    face_set: FaceSet, found: dict[str, Any], rows: list[tuple[str, Sequence[int]]], path: Path, title: str
) -> Path:
    cache: dict[int, list[bytes]] = {}

    def picture(row: int) -> np.ndarray:
        number, inside = (int(i) for i in found["place"][row])
        if number not in cache:
            cache[number] = face_set.pieces[number].read()["images"]
        return decode_image(cache[number][inside])

    grid = [[picture(row) for row in chosen] for _, chosen in rows]
    return contact_sheet(grid, path, [label for label, _ in rows], f"{face_set.name}: {title}")


if __name__ == "__main__":
    run_job("inspect_dataset", inspect_dataset, __doc__)
