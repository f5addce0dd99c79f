"""Embeddings of any pictures: a face dataset, or a folder of pictures (with subfolders), to Parquet.

Writes <output>/embeddings: parts/part-*.parquet with name, identity, index, score, rejected and embedding (null where
there is no face), in the input's order, and manifest.json last. A killed job continues where it was.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from facelib.config import Settings
from facelib.data import IMAGE_SUFFIXES, MANIFEST_NAME, DatasetError, FaceDataset, Folder, ImageSpec
from facelib.data.fingerprint import claim_output_dir
from facelib.data.lock import directory_lock
from facelib.data.storage import file_sha256
from facelib.models import read_checkpoint
from facelib.models.checkpoints import BackboneCheckpoint
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.datasets.dataset_report import part_name
from ray_jobs.embedding.stream import Task, embedding_stream
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport
from ray_jobs.results import JobResult
from ray_jobs.validation import check_align


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check detector and template.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    check_align(settings.align)


def embed(settings: Settings, run: Run) -> JobResult:
    """Embed `settings.embed.input`, or finish that, or find it whole."""
    cfg = settings.embed
    model, source = settings.path(cfg.model), settings.path(cfg.input)
    try:
        checkpoint = read_checkpoint(model)
    except FileNotFoundError as error:
        raise JobError(f"embed.model: {error}; train it first, or name another checkpoint") from None
    image_spec = _image_spec(settings, checkpoint)
    listing, tasks = _dataset_tasks(settings, source, image_spec) or _folder_tasks(settings, source)
    folder = Folder(settings.path(cfg.folder)).create()
    spec = {
        "model": file_sha256(model),
        "input": listing,
        "image_spec": image_spec.model_dump(),
        **{name: getattr(cfg, name) for name in ("aligned", "flip", "normalize", "precision", "images_per_part")},
        **{f"align_{name}": getattr(settings.align, name) for name in ("detector", "options", "min_score")},
    }
    with directory_lock(folder, "embed"):
        claim_output_dir(folder, spec)
        # A folder of their own: readers of Parquet folders stumble over any other file.
        parts = Folder(f"{folder.uri}/parts").create()
        if not folder.exists(MANIFEST_NAME):
            parts.clean_temp_files()
            _write_parts(settings, parts, model, image_spec, tasks)
            folder.write(MANIFEST_NAME, json.dumps(_manifest(parts, spec), indent=1).encode())
    manifest = json.loads(folder.read(MANIFEST_NAME))
    print(f"{manifest['pictures']} pictures, {manifest['embedded']} embedded in {manifest['dimensions']} dimensions")
    for reason, count in manifest["rejected"].items():
        print(f"  rejected, {reason}: {count}")
    run.log_json(manifest, f"embeddings/{MANIFEST_NAME}")
    metrics = {name: float(manifest[name]) for name in ("pictures", "embedded")}
    run.log_metrics(metrics)
    return JobResult(written=(parts.uri,), metrics=metrics)


def _image_spec(settings: Settings, checkpoint: BackboneCheckpoint) -> ImageSpec:
    """What faces the network was made for; for published checkpoints, what `align` says."""
    return ImageSpec(template=settings.align.template, size=settings.align.size).overlaid(checkpoint.image_spec)


def _dataset_tasks(settings: Settings, uri: str, image_spec: ImageSpec) -> tuple[str, list[Task]] | None:
    """Listing and tasks of a face dataset, a part for each of its parts; None when it is none."""
    if not Folder(uri).exists(MANIFEST_NAME):
        return None
    dataset = FaceDataset(uri)
    image_spec.require(dataset.image_spec, f"model {settings.embed.model}", f"dataset {uri}")
    tasks = []
    for number, part in enumerate(dataset.manifest.parts):
        groups: list[int] = []
        rows, count = 0, 0
        for index, (_, size) in enumerate(part.row_groups):
            groups.append(index)
            rows += size
            if rows >= settings.embed.images_per_task or index == len(part.row_groups) - 1:
                tasks.append(Task(number, count, rows, uri, source=part.name, row_groups=groups))
                groups, rows, count = [], 0, count + 1
    return f"{uri} {hashlib.sha256(dataset.folder.read(MANIFEST_NAME)).hexdigest()}", tasks


def _folder_tasks(settings: Settings, uri: str) -> tuple[str, list[Task]]:
    """Listing and tasks of a folder of pictures, names ascending."""
    cfg, folder = settings.embed, Folder(uri)
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, recursive=True, allow_not_found=True))
    start = len(folder.path.rstrip("/")) + 1
    files = sorted((i.path[start:], i.size) for i in infos if i.type == pafs.FileType.File)
    files = [file for file in files if file[0].lower().endswith(IMAGE_SUFFIXES)]
    if not files:
        raise JobError(f"embed.input: {uri} is no face dataset and holds no pictures ({', '.join(IMAGE_SUFFIXES)})")
    listing = hashlib.sha256("\n".join(f"{name}\t{size}" for name, size in files).encode()).hexdigest()
    names, tasks = [name for name, _ in files], []
    for part, begin in enumerate(range(0, len(names), cfg.images_per_part)):
        members = names[begin : begin + cfg.images_per_part]
        for number, first in enumerate(range(0, len(members), cfg.images_per_task)):
            chosen = members[first : first + cfg.images_per_task]
            tasks.append(Task(part, number, len(chosen), uri, files=chosen))
    return f"{uri} {listing}", tasks


def _write_parts(settings: Settings, folder: Folder, model: str, image_spec: ImageSpec, tasks: list[Task]) -> None:
    names = set(folder.names())
    there = {task.part for task in tasks if part_name(task.part) in names}
    missing = [task for task in tasks if task.part not in there]
    if there:
        print(f"{len(there)} of {len({t.part for t in tasks})} parts are there already", flush=True)
    if not missing:
        return
    with ProgressReport("embedding", sum(t.pictures for t in missing)) as progress:
        for part, table in _collect(embedding_stream(settings, model, image_spec, missing), missing, progress):
            sink = pa.BufferOutputStream()
            pq.write_table(table, sink, compression="none")
            folder.write(part_name(part), sink.getvalue().to_pybytes())


def _collect(
    stream: Iterator[tuple[Task, pa.Table]], tasks: list[Task], progress: ProgressReport
) -> Iterator[tuple[int, pa.Table]]:
    """Each part, its tasks in order, once the last of them has come."""
    wanted = Counter(task.part for task in tasks)
    waiting: dict[int, dict[int, pa.Table]] = {}
    for task, table in stream:
        pieces = waiting.setdefault(task.part, {})
        if task.number not in pieces:  # A retried task may deliver twice.
            pieces[task.number] = table
            progress.advance(len(table))
        if len(pieces) == wanted[task.part]:
            yield task.part, pa.concat_tables([pieces[number] for number in sorted(pieces)])
            del waiting[task.part]
            wanted[task.part] = 0
    if waiting:
        raise RuntimeError(f"the stream ended with parts {sorted(waiting)} incomplete")


def _manifest(folder: Folder, spec: dict[str, Any]) -> dict[str, Any]:
    names = [name for name in folder.names() if name.endswith(".parquet")]
    rejected: Counter[str] = Counter()
    pictures = dimensions = 0
    for name in names:
        with folder.fs.open_input_file(f"{folder.path}/{name}") as stream:
            file = pq.ParquetFile(stream)
            reasons = file.read(columns=["rejected"])["rejected"].to_pylist()
            dimensions = int(file.schema_arrow.metadata[b"dimensions"])
        pictures += len(reasons)
        rejected.update(reason.partition(":")[0] for reason in reasons if reason)
    if not pictures:
        raise DatasetError(f"{folder.uri}: the input holds no picture")
    return {
        "pictures": pictures,
        "embedded": pictures - rejected.total(),
        "rejected": dict(sorted(rejected.items())),
        "dimensions": dimensions,
        "parts": names,
        "spec": spec,
    }


if __name__ == "__main__":
    run_job("embed", embed, __doc__)
