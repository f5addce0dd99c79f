"""Writing the Parquet parts of the embed job and the counts of its manifest."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facelib.config import Settings
from facelib.data import DatasetError, Folder, ImageSpec
from ray_jobs.datasets.writing import collect_parts, part_name
from ray_jobs.embedding.stream import embedding_stream
from ray_jobs.embedding.tasks import EmbeddingTask
from ray_jobs.progress import ProgressReport


def write_embedding_parts(
    settings: Settings, folder: Folder, model: str, image_spec: ImageSpec, tasks: Sequence[EmbeddingTask]
) -> None:
    """Embed `tasks` and write each part that is not in `folder` as soon as it is complete.

    Args:
        model: path or URI of the checkpoint.
        image_spec: of the model's training faces.
    """
    existing = set(folder.names())
    missing = [task for task in tasks if part_name(task.part) not in existing]
    total, left = (len({task.part for task in some}) for some in (tasks, missing))
    if left < total:
        print(f"{total - left} of {total} parts already exist", flush=True)
    with ProgressReport("embedding", sum(task.images for task in missing)) as progress:

        def counted() -> Iterator[tuple[int, int, pa.Table]]:
            for task, table in embedding_stream(settings, model, image_spec, missing):
                progress.advance(len(table))
                yield task.part, task.number, table

        for part, tables in collect_parts(counted(), Counter(task.part for task in missing)):
            sink = pa.BufferOutputStream()
            pq.write_table(pa.concat_tables(tables), sink, compression="none")
            folder.write(part_name(part), sink.getvalue().to_pybytes())


def embedding_manifest(folder: Folder, spec: dict[str, Any]) -> dict[str, Any]:
    """Counts of all parts in `folder`: images, embedded, rejected (by reason), dimensions, parts.

    Raises:
        DatasetError: the parts have no rows.
    """
    names = [name for name in folder.names() if name.endswith(".parquet")]
    rejected: Counter[str] = Counter()
    images = dimensions = 0
    for name in names:
        with folder.fs.open_input_file(f"{folder.path}/{name}") as stream:
            file = pq.ParquetFile(stream)
            reasons = file.read(columns=["rejected"])["rejected"].to_pylist()
            dimensions = int(file.schema_arrow.metadata[b"dimensions"])
        images += len(reasons)
        rejected.update(reason.partition(":")[0] for reason in reasons if reason)
    if not images:
        raise DatasetError(f"{folder.uri}: the input contains no images")
    return {
        "images": images,
        "embedded": images - rejected.total(),
        "rejected": dict(sorted(rejected.items())),
        "dimensions": dimensions,
        "parts": names,
        "spec": spec,
    }
