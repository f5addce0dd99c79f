"""Synthetic identities → aligned face datasets.

Writes <output>/faces for training, unless data.stream leaves that to the training, and <output>/heldout for model
selection, unless generate.heldout_identities is 0.
A killed job continues where it was: finished parts are kept, and the result is the same bytes.
"""

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa

from facelib.config import Settings, SettingsError
from facelib.data import MANIFEST_NAME, FaceDataset, Folder, write_part
from facelib.data.fingerprint import claim_output_dir, spec_fingerprint
from facelib.data.lock import directory_lock
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.datasets.dataset_report import (
    dataset_metrics,
    finished_parts,
    part_manifest,
    part_name,
    report_dataset,
)
from ray_jobs.datasets.generation import AlignedChunk, Chunk, face_stream, faces_spec
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport
from ray_jobs.results import JobResult
from ray_jobs.validation import HELDOUT_FIRST_IDENTITY, check_faces


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check generator, detector, template and identity ranges before anything starts.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    generate = settings.generate
    limit = check_faces(settings, 1 if not settings.data.stream else 0)
    if limit is not None and generate.heldout_identities:
        raise SettingsError(
            f"generate.heldout_identities: generator {generate.generator} has a limited number of identities, none of "
            "them kept apart; set it to 0, and train.selection to last or sets"
        )


def generate(settings: Settings, run: Run) -> JobResult:
    """Generate the training dataset and the held-out dataset that the settings describe."""
    cfg = settings.generate
    datasets: list[FaceDataset] = []
    if not settings.data.stream:
        datasets.append(make_dataset(settings, settings.data.dataset, cfg.first_identity, cfg.identities, run))
    if cfg.heldout_identities and settings.data.heldout:
        # Numbered far above any training range, so that no setting of sizes can make the two overlap.
        heldout = make_dataset(settings, settings.data.heldout, HELDOUT_FIRST_IDENTITY, cfg.heldout_identities, run)
        datasets.append(heldout)
    if not datasets:
        raise JobError(
            "nothing to do: with data.stream=true training generates its own faces, and generate.heldout_identities "
            "is 0. Set generate.heldout_identities, or skip this job"
        )
    return JobResult(
        written=tuple(dataset.folder.uri for dataset in datasets),
        metrics={name: number for dataset in datasets for name, number in dataset_metrics(dataset).items()},
    )


def make_dataset(settings: Settings, name: str, first: int, identities: int, run: Run) -> FaceDataset:
    """Generate one dataset, or what is missing of it."""
    folder = Folder(settings.path(name)).create()
    spec = dataset_spec(settings, first, identities)
    with directory_lock(folder, "generate"):
        claim_output_dir(folder, spec)
        if not folder.exists(MANIFEST_NAME):
            _make_parts(folder, settings, spec, name)
    return report_dataset(folder, name, run)


def dataset_spec(settings: Settings, first: int, identities: int) -> dict[str, Any]:
    """Everything that decides the dataset's bytes, and nothing else."""
    own = {
        "first_identity": first,
        "identities": identities,
        "identities_per_part": settings.generate.identities_per_part,
    }
    return {**faces_spec(settings), **own}


def _make_parts(folder: Folder, settings: Settings, spec: dict[str, Any], name: str) -> None:
    folder.clean_temp_files()
    key = spec_fingerprint(spec)
    finished, chunks = finished_parts(folder, key), []
    total_parts = -(-spec["identities"] // spec["identities_per_part"])
    for part in range(total_parts):
        if part not in finished:
            chunks += _chunks(part, spec, settings.generate.identities_per_task)
    per_identity = spec["images_per_identity"]
    if finished:
        print(f"{name}: {len(finished)} of {total_parts} parts are there already", flush=True)
    with ProgressReport(name, sum(c.count for c in chunks) * per_identity) as progress:
        for part, done in _collect(
            face_stream(settings, chunks) if chunks else iter(()), chunks, progress, per_identity
        ):
            table = pa.concat_tables([c.table for c in done]).sort_by(
                [("identity", "ascending"), ("index", "ascending")]
            )
            requested = sum(c.chunk.count for c in done) * per_identity
            finished[part] = write_part(folder, part_name(part), table, requested, _sum_rejected(done), key)
    manifest = part_manifest(spec, finished.values())
    folder.write(MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())


def _collect(
    stream: Iterator[AlignedChunk], chunks: list[Chunk], progress: ProgressReport, images_per_identity: int
) -> Iterator[tuple[int, list[AlignedChunk]]]:
    """Yield each part once all its chunks have come in.

    Chunks come nearly in order, so few parts are open at a time.
    """
    missing: dict[int, int] = {}
    for chunk in chunks:
        missing[chunk.part] = missing.get(chunk.part, 0) + 1
    waiting: dict[int, dict[int, AlignedChunk]] = {}
    rejected = 0
    for aligned in stream:
        part = aligned.chunk.part
        pieces = waiting.setdefault(part, {})
        if aligned.chunk.first in pieces:
            continue  # A retried task may deliver twice; content is the same by construction.
        pieces[aligned.chunk.first] = aligned
        rejected += sum(aligned.rejected.values())
        progress.advance(aligned.chunk.count * images_per_identity, f"({rejected} rejected)")
        if len(pieces) == missing[part]:
            yield part, list(waiting.pop(part).values())
    if waiting:
        raise RuntimeError(f"the stream ended with {len(waiting)} parts incomplete")


def _chunks(part: int, spec: dict[str, Any], per_task: int) -> list[Chunk]:
    begin = spec["first_identity"] + part * spec["identities_per_part"]
    end = min(begin + spec["identities_per_part"], spec["first_identity"] + spec["identities"])
    return [Chunk(part, first, min(per_task, end - first)) for first in range(begin, end, per_task)]


def _sum_rejected(done: list[AlignedChunk]) -> dict[str, int]:
    total: dict[str, int] = {}
    for chunk in done:
        for reason, number in chunk.rejected.items():
            total[reason] = total.get(reason, 0) + number
    return total


if __name__ == "__main__":
    run_job("generate", generate, __doc__)
