"""Parts of a face dataset and the manifest that sums them up.

A part's bytes are a function of (settings, identity range) only; the manifest is written last.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

from facelib.data.errors import DatasetError
from facelib.data.image_spec import ImageSpec
from facelib.data.schema import SCHEMA
from facelib.data.storage import Folder

MANIFEST_NAME = "manifest.json"
SPEC_NAME = "spec.json"


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
    """Settings, image spec and counts of a dataset. No time and no host name: the same spec gives the same bytes."""

    model_config = ConfigDict(extra="forbid")

    format: int = 1
    image_spec: ImageSpec
    spec: dict[str, Any]
    identities: int
    images: int
    counts: dict[str, int]  # requested, aligned, and rejected:<reason>
    parts: list[PartInfo]
    versions: dict[str, str]

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, tree: Any) -> Any:
        """Manifests written before version 0.1 was released say `contract`, `colour` and `plan`."""
        if isinstance(tree, dict) and "contract" in tree:
            tree = {**tree, "image_spec": dict(tree["contract"]), "spec": tree.get("plan", {})}
            tree["image_spec"]["color"] = tree["image_spec"].pop("colour", "RGB")
            del tree["contract"], tree["plan"]
        return tree


def write_part(
    folder: Folder,
    name: str,
    table: pa.Table,
    requested: int,
    rejected: dict[str, int],
    spec_fingerprint: str,
    identities_per_row_group: int = 64,
) -> PartInfo:
    """Write `table` (rows sorted by identity, index) as one part, atomically: a reader sees all of it or nothing."""
    identities = table["identity"].to_numpy()
    if np.any(np.diff(identities) < 0):
        raise ValueError(f"{name}: identities must ascend")
    starts = np.flatnonzero(np.r_[True, np.diff(identities) != 0]) if len(identities) else np.zeros(0, int)
    cuts = [*starts[::identities_per_row_group].tolist(), len(identities)]
    # "plan" is the name that parts on disk carry; renaming it would change their bytes.
    note = {"plan": spec_fingerprint, "requested": requested, "rejected": dict(sorted(rejected.items()))}
    schema = SCHEMA.with_metadata({"facelib": json.dumps(note, sort_keys=True)})
    sink = pa.BufferOutputStream()
    # JPEG bytes do not compress; the rest is small. No compression makes reading a copy.
    with pq.ParquetWriter(sink, schema, compression="none", use_dictionary=["source"]) as writer:
        for begin, end in itertools.pairwise(cuts):
            writer.write_table(table.slice(begin, end - begin).cast(schema), row_group_size=max(end - begin, 1))
    data = sink.getvalue().to_pybytes()
    folder.write(name, data)
    return _describe_part(folder, name, data)


def read_part_info(folder: Folder, name: str, *fingerprints: str) -> PartInfo:
    """Read a part back from storage and describe it.

    Args:
        fingerprints: of specs that it may have been made under; none: of any.

    Raises:
        DatasetError: it is damaged, or was made under other settings.
    """
    return _describe_part(folder, name, folder.read(name), fingerprints)


def _describe_part(folder: Folder, name: str, data: bytes, fingerprints: Sequence[str] = ()) -> PartInfo:
    try:
        parquet = pq.ParquetFile(pa.BufferReader(data))
        note = json.loads(parquet.schema_arrow.metadata[b"facelib"])
        identities = parquet.read(columns=["identity"])["identity"].to_numpy()
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{folder.uri}/{name}: damaged part ({error}). Delete it and run the job again.") from None
    if fingerprints and note["plan"] not in fingerprints:
        raise DatasetError(f"{folder.uri}/{name}: made with other settings. Use another folder, or delete this one.")
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


def make_manifest(image_spec: ImageSpec, spec: dict[str, Any], parts: Sequence[PartInfo], versions: dict) -> Manifest:
    """Sum the parts up. Counts satisfy requested = aligned + Σ rejected."""
    counts = {"requested": sum(p.requested for p in parts), "aligned": sum(p.rows for p in parts)}
    for part in parts:
        for reason, number in part.rejected.items():
            counts[f"rejected:{reason}"] = counts.get(f"rejected:{reason}", 0) + number
    return Manifest(
        image_spec=image_spec,
        spec=spec,
        identities=sum(g[0] for p in parts for g in p.row_groups),
        images=counts["aligned"],
        counts=dict(sorted(counts.items())),
        parts=sorted(parts, key=lambda p: p.name),
        versions=versions,
    )
