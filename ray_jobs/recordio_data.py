"""RecordIO face sets as a Ray Data source: byte ranges of a `.rec` file, each streamed by one task, no index needed.

    read_recordio("/data/ms1mv2/train.rec").map_batches(...)

The import job does not go this way: it must know every identity's pictures before it can keep them together. This is
for a single pass over all records: counting, checking, converting.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from facelib.sources import RecordFile

SCHEMA = pa.schema(
    [
        pa.field("offset", pa.int64()),
        pa.field("labels", pa.list_(pa.float32())),
        pa.field("image", pa.binary()),
        pa.field("damage", pa.string()),
    ]
)
# A block leaves the task when it holds this many bytes of pictures: bounds memory, whatever the size of the range.
BLOCK_BYTES = 32 << 20


def read_recordio(path: str | os.PathLike[str], parallelism: int = -1) -> Any:
    """A `ray.data.Dataset` of all records of a `.rec` file, wherever they are damaged.

    Rows: `offset` int64, `labels` float32 list, `image` bytes (empty in header and identity records), `damage` text
    (empty for whole records). Every record, and every damaged stretch, is a row exactly once.

    Args:
        path: a file that all nodes see.
        parallelism: number of byte ranges; -1 leaves it to Ray.

    Raises:
        FileNotFoundError: no such file.
    """
    ranges = parallelism if parallelism > 0 else None
    return ray.data.read_datasource(RecordIODatasource(path), override_num_blocks=ranges)


class RecordIODatasource(Datasource):
    """Splits a `.rec` file by bytes."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.file = RecordFile(path)

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the file: records are stored as they are read."""
        return self.file.size

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        """One task for each of `parallelism` ranges of about equal size."""
        size = self.file.size
        cuts = np.linspace(0, size, max(1, min(parallelism, size // 4096 or 1)) + 1).astype(np.int64).tolist()
        tasks = []
        for begin, end in itertools.pairwise(cuts):
            metadata = BlockMetadata(
                num_rows=None, size_bytes=end - begin, input_files=[str(self.file.path)], exec_stats=None
            )
            task = ReadTask(
                _reader(self.file, begin, end), metadata, schema=SCHEMA, per_task_row_limit=per_task_row_limit
            )
            tasks.append(task)
        return tasks


def _reader(file: RecordFile, begin: int, end: int) -> Callable[[], Iterable[pa.Table]]:
    return lambda: _tables(file, begin, end)


def _tables(file: RecordFile, begin: int, end: int) -> Iterable[pa.Table]:
    rows: list[dict[str, Any]] = []
    held = 0
    for record in file.scan(begin, end):
        rows.append({"offset": record.offset, "labels": record.labels, "image": record.image, "damage": record.damage})
        held += len(record.image)
        if held >= BLOCK_BYTES:
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            rows, held = [], 0
    if rows or begin == 0:
        yield pa.Table.from_pylist(rows, schema=SCHEMA)
