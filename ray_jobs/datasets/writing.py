"""Writing the parts of a dataset: which are finished, what is missing, and each part from its pieces.

The manifest is written last: a folder without one is unfinished, and the same command writes its missing parts.
"""

import contextlib
import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from facelib.config import Settings
from facelib.data import MANIFEST_NAME, Folder, ImageSpec, Manifest, PartInfo, make_manifest, read_part_info, write_part
from facelib.data.fingerprint import former_fingerprints, spec_fingerprint
from ray_jobs.datasets.generation import AlignedChunk, Chunk, face_parts
from ray_jobs.progress import ProgressReport

Piece = TypeVar("Piece")


def part_name(part: int) -> str:
    """`part-0000012.parquet`."""
    return f"part-{part:07d}.parquet"


def finished_parts(folder: Folder, *fingerprints: str) -> dict[int, PartInfo]:
    """Parts in the folder, by number.

    Raises:
        DatasetError: a part is damaged or was written with another spec than those of `fingerprints`.
    """
    finished = {}
    for name in folder.names():
        if match := re.fullmatch(r"part-(\d{7})\.parquet", name):
            finished[int(match[1])] = read_part_info(folder, name, *fingerprints)
    return finished


def write_generated_parts(folder: Folder, settings: Settings, spec: dict[str, Any], name: str) -> None:
    """Generate the missing parts of a dataset, and then its manifest.

    Args:
        spec: of the dataset, with its identity range, see `ray_jobs.generate.dataset_spec`.
        name: of the dataset, for progress.
    """
    folder.clean_temp_files()
    fingerprint = spec_fingerprint(spec)
    total_parts = -(-spec["identities"] // spec["identities_per_part"])
    images = spec["images_per_identity"]
    needed = {
        part: sum(chunk.count for chunk in part_chunks(part, spec, spec["identities_per_part"])) * images
        for part in range(total_parts)
    }
    # Of a dataset that has grown, the last part may have been smaller than it is now.
    finished = {
        part: info
        for part, info in finished_parts(folder, fingerprint, *former_fingerprints(folder)).items()
        if info.requested == needed.get(part)
    }
    missing = [part for part in range(total_parts) if part not in finished]
    parts = [part_chunks(part, spec, settings.generate.identities_per_task) for part in missing]
    if finished:
        print(f"{name}: {len(finished)} of {total_parts} parts already exist", flush=True)
    writer = PartWriter(folder.uri, fingerprint, images)
    with ProgressReport(name, sum(chunk.count for chunks in parts for chunk in chunks) * images) as progress:
        rejections = 0
        for part, info in zip(missing, face_parts(settings, parts, writer), strict=True):
            finished[part] = info
            rejections += info.requested - info.rows
            progress.advance(info.requested, f"({rejections} rejected)")
    write_manifest(folder, part_manifest(spec, finished.values()))


@dataclass(frozen=True)
class PartWriter:
    """Writes a part from its aligned chunks. Writing it again gives the same bytes."""

    uri: str
    fingerprint: str
    images_per_identity: int

    def __call__(self, made: list[AlignedChunk]) -> PartInfo:
        table = pa.concat_tables([aligned.table for aligned in made])
        table = table.sort_by([("identity", "ascending"), ("index", "ascending")])
        rejected: Counter[str] = Counter()
        for aligned in made:
            rejected.update(aligned.rejected)
        requested = sum(aligned.chunk.count for aligned in made) * self.images_per_identity
        name = part_name(made[0].chunk.part)
        return write_part(Folder(self.uri), name, table, requested, dict(rejected), self.fingerprint)


def part_chunks(part: int, spec: Mapping[str, Any], identities_per_task: int) -> list[Chunk]:
    """The identity ranges that make up part number `part`, one per task."""
    begin = spec["first_identity"] + part * spec["identities_per_part"]
    end = min(begin + spec["identities_per_part"], spec["first_identity"] + spec["identities"])
    return [
        Chunk(part, first, min(identities_per_task, end - first)) for first in range(begin, end, identities_per_task)
    ]


def collect_parts(
    pieces: Iterable[tuple[int, int, Piece]], expected: Mapping[int, int]
) -> Iterator[tuple[int, list[Piece]]]:
    """Group a stream of pieces by part; a part comes, its pieces in order, as soon as its last piece has arrived.

    Streams are nearly in order, so few parts are incomplete at a time. A retried task may deliver a piece twice; the
    copies are equal, and the second is dropped.

    Args:
        pieces: (part, position within the part, piece), in any order.
        expected: number of pieces of each part.

    Raises:
        RuntimeError: the stream ended before all parts were complete.
    """
    incomplete: dict[int, dict[int, Piece]] = {part: {} for part in expected}
    for part, position, piece in pieces:
        if part not in incomplete:
            continue
        incomplete[part].setdefault(position, piece)
        if len(incomplete[part]) == expected[part]:
            collected = incomplete.pop(part)
            yield part, [collected[position] for position in sorted(collected)]
    if incomplete:
        raise RuntimeError(f"the stream ended with parts {sorted(incomplete)} incomplete")


def part_manifest(spec: dict[str, Any], parts: Iterable[PartInfo]) -> Manifest:
    """The manifest of a dataset of `parts`; `spec` has its template and size."""
    return make_manifest(ImageSpec(template=spec["template"], size=spec["size"]), spec, list(parts), versions())


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Write `manifest.json`, which marks the dataset as finished."""
    folder.write(MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())


def versions() -> dict[str, str]:
    """Versions of the packages that decide a result's bytes."""
    names = ("facelib", "numpy", "torch", "opencv-python", "onnxruntime", "mtcnn", "pyarrow", "ray")
    installed = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed
