"""A finished face dataset, opened for reading."""

import hashlib
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from facelib.data.errors import DatasetError
from facelib.data.image_spec import ImageSpec
from facelib.data.manifest import MANIFEST_NAME, SPEC_NAME, Manifest
from facelib.data.part_cache import PartCache
from facelib.data.storage import Folder, storage_error

MAX_FOOTERS = 256  # of parts, in memory; one of a hundred row groups has 0.1 MB


class FaceDataset:
    """A finished face dataset, opened for reading.

    Args:
        cache: keeps copies of parts on this node's disk.

    Attributes:
        fingerprint: SHA-256 of the manifest, which holds those of the parts.

    Raises:
        DatasetError: the folder has no manifest (missing, or its job did not finish), or the manifest is damaged.
    """

    def __init__(self, uri: str, cache: PartCache | None = None) -> None:
        self.folder, self.cache = Folder(uri), cache
        if not self.folder.exists(MANIFEST_NAME):
            state = "is unfinished: run its job again" if self.folder.exists(SPEC_NAME) else "is no face dataset"
            raise DatasetError(f"{self.folder.uri} {state} (it has no {MANIFEST_NAME})")
        data = self.folder.read(MANIFEST_NAME)
        try:
            self.manifest = Manifest.model_validate_json(data)
        except ValueError as error:
            raise DatasetError(f"{self.folder.uri}/{MANIFEST_NAME}: damaged ({error})") from None
        self.fingerprint = hashlib.sha256(data).hexdigest()
        self._parts = {part.name: part for part in self.manifest.parts}
        self._footers: dict[str, pq.FileMetaData] = {}

    @property
    def image_spec(self) -> ImageSpec:
        """What its pixels mean."""
        return self.manifest.image_spec

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """Every row group as (part name, index in the part, identities, rows), in dataset order."""
        return [(p.name, i, *group) for p in self.manifest.parts for i, group in enumerate(p.row_groups)]

    def read_row_groups(self, part: str, indices: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some row groups of one part; a part's footer is read once. May be called by several threads."""
        try:
            with self._open(part) as stream:
                # Columns that are wanted lie side by side: one request for both.
                parquet = pq.ParquetFile(stream, metadata=self._footers.get(part), pre_buffer=True)
                self._footers[part] = parquet.metadata
                while len(self._footers) > MAX_FOOTERS:
                    self._footers.pop(next(iter(self._footers)), None)
                return parquet.read_row_groups(list(indices), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise storage_error(f"{self.folder.uri}/{part}", "read", error) from None

    def _open(self, part: str) -> pa.NativeFile:
        """A part on this node's disk or in storage."""
        copy = self.cache.fetch(self.folder, self._parts[part]) if self.cache else None
        if copy:
            try:
                return pafs.LocalFileSystem().open_input_file(str(copy))
            except FileNotFoundError:  # deleted to make room since
                pass
        return self.folder.fs.open_input_file(f"{self.folder.path}/{part}")

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """One table per part, in order."""
        for part in self.manifest.parts:
            yield self.read_row_groups(part.name, range(len(part.row_groups)), columns)

    def check_parts(self) -> None:
        """Compare every part's size with the manifest; `DatasetError` names the first that is off or missing."""
        for part in self.manifest.parts:
            size = self.folder.fs.get_file_info(f"{self.folder.path}/{part.name}").size
            if size != part.bytes:
                found = "is missing" if size is None else f"has {size} bytes"
                raise DatasetError(
                    f"{self.folder.uri}/{part.name}: {found}, the manifest says {part.bytes}. Delete {MANIFEST_NAME} "
                    "(and a damaged part) and run the job again."
                )

    def verify(self) -> None:
        """Compare every part's size and checksum with the manifest; `DatasetError` names the first that differs."""
        for part in self.manifest.parts:
            data = self.folder.read(part.name)
            if len(data) != part.bytes or hashlib.sha256(data).hexdigest() != part.sha256:
                raise DatasetError(f"{self.folder.uri}/{part.name}: differs from the manifest (damaged or replaced)")
