"""The face dataset: record schema, image codec, data contract, manifest, and reading and writing of parts.

A face dataset is a folder, local or remote (anything `pyarrow.fs` opens: `s3://`, `gs://`), of `part-*.parquet` files
and one `manifest.json` that is written last: a folder without it is unfinished and nothing reads it as a dataset. All
images of one identity lie in one row group, identities ascend, and a part's bytes are a function of (plan, identity
range) only.
"""

import contextlib
import errno
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from facelib.image_headers import declared_size

MANIFEST_NAME = "manifest.json"
PLAN_NAME = "plan.json"
# Gigapixel bombs: refuse before the decoder allocates. 64 megapixels is beyond any face picture.
MAX_PIXELS = 64_000_000

SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("identity", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("landmarks", pa.list_(pa.list_(pa.float32(), 2), 5), nullable=False),
        pa.field("factors", pa.list_(pa.float32()), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


class DatasetError(ValueError):
    """A face dataset that is missing, unfinished, damaged, or does not fit what is asked of it."""


class StorageError(DatasetError):
    """Storage that failed in reading or writing. Unlike other mistakes it may pass, so workers try again."""


class Contract(BaseModel):
    """What pixels mean: two things that exchange faces must agree on it, or similarity scores are noise."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str
    size: int
    colour: str = "RGB"

    def overlaid(self, said: Mapping[str, Any] | None) -> "Contract":
        """This contract with what `said`, as a checkpoint holds it, says of its fields; other entries are left out."""
        found = {name: value for name, value in (said or {}).items() if name in type(self).model_fields}
        return Contract(**{**self.model_dump(), **found})

    def require(self, other: "Contract", this_name: str, other_name: str) -> None:
        """Raise `DatasetError` naming both sides and every differing field unless `other` equals this contract."""
        differing = [name for name in type(self).model_fields if getattr(self, name) != getattr(other, name)]
        if differing:
            details = "; ".join(f"{n}: {getattr(self, n)!r} against {getattr(other, n)!r}" for n in differing)
            raise DatasetError(
                f"{this_name} and {other_name} do not fit together ({details}). "
                "Faces must share template, size and colour order: align one of them again."
            )


class PartInfo(BaseModel):
    """One `part-*.parquet`: its rows, checksum, and what was counted while it was made."""

    model_config = ConfigDict(extra="forbid")

    name: str
    rows: int
    bytes: int
    sha256: str
    row_groups: list[tuple[int, int]]  # (identities, rows) of every row group
    requested: int
    rejected: dict[str, int]


class Manifest(BaseModel):
    """The dataset's contract and ledger. It holds no time and no host name: the same plan gives the same bytes."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    contract: Contract
    plan: dict[str, Any]
    identities: int
    images: int
    counts: dict[str, int]  # requested, aligned, and rejected:<reason>
    parts: list[PartInfo]
    versions: dict[str, str]


@dataclass(frozen=True)
class Face:
    """One aligned face. `image` is encoded; `landmarks` [5, 2] are in pixels of the picture it was cut from."""

    image: bytes
    identity: int
    index: int
    score: float
    landmarks: np.ndarray
    factors: np.ndarray
    source: str


def encode_image(image: np.ndarray, quality: int = 95) -> bytes:
    """Encode a uint8 [H, W, 3] RGB image as JPEG at `quality` (1..100), the same bytes for the same pixels."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    ok, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError("image: the JPEG encoder refused it")
    return bytes(data)


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode JPEG, PNG, BMP or WebP bytes to uint8 [H, W, 3] RGB.

    Raises:
        ValueError: the bytes are no image, or it has more than `max_pixels` pixels.
    """
    if not data:
        raise ValueError("image: empty data")
    height, width = declared_size(data)
    if height * width > max_pixels:
        raise ValueError(f"image: {width}x{height} pixels exceed the limit of {max_pixels}")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ValueError(f"image: not decodable ({error.err})") from None
    if image is None:
        raise ValueError(f"image: {len(data)} bytes that are no decodable picture")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def faces_to_table(faces: Iterable[Face]) -> pa.Table:
    """Arrow table of `SCHEMA`, in the order given."""
    faces = list(faces)
    columns = {f.name: [getattr(face, f.name) for face in faces] for f in SCHEMA}
    for name in ("landmarks", "factors"):
        columns[name] = [np.asarray(value).tolist() for value in columns[name]]
    arrays = [pa.array(columns[f.name], f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def write_part(
    folder: "Folder",
    name: str,
    table: pa.Table,
    requested: int,
    rejected: dict[str, int],
    plan_hash: str,
    identities_per_row_group: int = 64,
) -> PartInfo:
    """Write `table` (rows sorted by identity, index) as one part, atomically: a reader sees all of it or nothing."""
    identities = table["identity"].to_numpy()
    if np.any(np.diff(identities) < 0):
        raise ValueError(f"{name}: identities must ascend")
    starts = np.flatnonzero(np.r_[True, np.diff(identities) != 0]) if len(identities) else np.zeros(0, int)
    cuts = [*starts[::identities_per_row_group].tolist(), len(identities)]
    note = {"plan": plan_hash, "requested": requested, "rejected": dict(sorted(rejected.items()))}
    schema = SCHEMA.with_metadata({"facelib": json.dumps(note, sort_keys=True)})
    sink = pa.BufferOutputStream()
    # JPEG bytes do not compress; the rest is small. No compression makes reading a copy.
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=["source"]) as writer:
        for begin, end in itertools.pairwise(cuts):
            writer.write_table(table.slice(begin, end - begin).cast(schema), row_group_size=max(end - begin, 1))
    folder.write(name, sink.getvalue().to_pybytes())
    return read_part_info(folder, name)


def read_part_info(folder: "Folder", name: str, plan_hash: str | None = None) -> PartInfo:
    """Read a part back from storage and describe it.

    Raises:
        DatasetError: it is damaged, or was made under another plan than `plan_hash`.
    """
    data = folder.read(name)
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        note = json.loads(parquet.schema_arrow.metadata[b"facelib"])
        identities = parquet.read(columns=["identity"])["identity"].to_numpy()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{folder.uri}/{name}: damaged part ({error}). Delete it and run the job again.") from None
    if plan_hash is not None and note["plan"] != plan_hash:
        raise DatasetError(f"{folder.uri}/{name}: made under another plan. Use another folder, or delete this one.")
    groups, begin = [], 0
    for i in range(parquet.metadata.num_row_groups):
        rows = parquet.metadata.row_group(i).num_rows
        groups.append((len(np.unique(identities[begin : begin + rows])), rows))
        begin += rows
    return PartInfo(
        name=name,
        rows=len(identities),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        row_groups=groups,
        requested=note["requested"],
        rejected=note["rejected"],
    )


def make_manifest(contract: Contract, plan: dict[str, Any], parts: Sequence[PartInfo], versions: dict) -> Manifest:
    """Sum the parts up. Counts satisfy requested = aligned + Σ rejected."""
    counts = {"requested": sum(p.requested for p in parts), "aligned": sum(p.rows for p in parts)}
    for part in parts:
        for reason, number in part.rejected.items():
            counts[f"rejected:{reason}"] = counts.get(f"rejected:{reason}", 0) + number
    return Manifest(
        contract=contract,
        plan=plan,
        identities=sum(g[0] for p in parts for g in p.row_groups),
        images=counts["aligned"],
        counts=dict(sorted(counts.items())),
        parts=sorted(parts, key=lambda p: p.name),
        versions=versions,
    )


@dataclass
class Folder:
    """A folder on any `pyarrow.fs` file system, with atomic whole-file writes."""

    uri: str
    fs: pafs.FileSystem = field(init=False, repr=False)
    path: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.uri = str(self.uri).rstrip("/")
        try:
            if "://" in self.uri:
                self.fs, self.path = pafs.FileSystem.from_uri(self.uri)
            else:
                self.fs, self.path = pafs.LocalFileSystem(), self.uri
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _storage_error(self.uri, "opened", error) from None

    def create(self) -> "Folder":
        """Make the folder if it is missing."""
        try:
            self.fs.create_dir(self.path, recursive=True)
        except OSError as error:
            raise _storage_error(self.uri, "created", error) from None
        return self

    def names(self) -> list[str]:
        """Sorted names of the files in it; empty when it does not exist."""
        try:
            infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise _storage_error(self.uri, "listed", error) from None
        return sorted(i.base_name for i in infos if i.type == pafs.FileType.File)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        try:
            return self.fs.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File
        except OSError as error:
            raise _storage_error(f"{self.uri}/{name}", "looked up", error) from None

    def read(self, name: str) -> bytes:
        """A file's bytes; `DatasetError` when it is missing or unreadable."""
        try:
            with self.fs.open_input_file(f"{self.path}/{name}") as stream:
                return stream.read()
        except OSError as error:
            raise _storage_error(f"{self.uri}/{name}", "read", error) from None

    def write(self, name: str, data: bytes) -> None:
        """Write under a temporary name, then rename: whatever dies, `name` is whole or absent.

        Raises:
            DatasetError: the target is full or not writable; the temporary file is removed.
        """
        temporary = f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with self.fs.open_output_stream(temporary) as stream:
                stream.write(data)
            self.fs.move(temporary, f"{self.path}/{name}")
        except OSError as error:
            # It was never created, or the same failure forbids removing it; readers ignore the name.
            with contextlib.suppress(OSError):
                self.fs.delete_file(temporary)
            raise _storage_error(f"{self.uri}/{name}", "written", error) from None

    def remove_leftovers(self) -> None:
        """Delete temporary files of writers that were killed. Call only while nobody writes here."""
        for name in self.names():
            if name.startswith(".") and name.endswith(".tmp"):
                self.fs.delete_file(f"{self.path}/{name}")


class FaceDataset:
    """A finished face dataset, opened for reading.

    Raises:
        DatasetError: the folder has no manifest (missing, or its job did not finish), or the manifest is damaged.
    """

    def __init__(self, uri: str) -> None:
        self.folder = Folder(uri)
        if not self.folder.exists(MANIFEST_NAME):
            state = "is unfinished: run its job again" if self.folder.exists(PLAN_NAME) else "is no face dataset"
            raise DatasetError(f"{self.folder.uri} {state} (it has no {MANIFEST_NAME})")
        try:
            self.manifest = Manifest.model_validate_json(self.folder.read(MANIFEST_NAME))
        except ValueError as error:
            raise DatasetError(f"{self.folder.uri}/{MANIFEST_NAME}: damaged ({error})") from None

    @property
    def contract(self) -> Contract:
        """What its pixels mean."""
        return self.manifest.contract

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """Every row group as (part name, index in the part, identities, rows), in dataset order."""
        return [(p.name, i, *group) for p in self.manifest.parts for i, group in enumerate(p.row_groups)]

    def read_row_groups(self, part: str, indices: Sequence[int], columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of some row groups of one part."""
        try:
            with self.folder.fs.open_input_file(f"{self.folder.path}/{part}") as stream:
                return pq.ParquetFile(stream).read_row_groups(list(indices), columns=columns)
        except (pa.ArrowException, OSError) as error:
            raise _storage_error(f"{self.folder.uri}/{part}", "read", error) from None

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


# What storage says of a request that will fail again: no such file, not allowed, no room, no folder.
_LASTING = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


def _storage_error(where: str, action: str, error: Exception) -> DatasetError:
    """The error to raise for one of the file system's."""
    lasting = isinstance(error, pa.ArrowException | ValueError) or getattr(error, "errno", None) in _LASTING
    return (DatasetError if lasting else StorageError)(f"{where}: cannot be {action} ({error})")
