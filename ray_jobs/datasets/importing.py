"""Import on actors: ranges of a source's list → actors that read, align, filter and write one part each.

One actor writes a part from its first to its last byte: no image travels between processes, and the driver receives
only counts. What a part leaves out, and why, is in its account in `import/`, which is written first: every part that
exists has an account.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2

from facelib.config import ImportSettings, Settings
from facelib.data import Folder, PartInfo, faces_to_table, write_part
from facelib.sources import FaceSource, SourceIndex
from facelib.sources.importing import Embed, ImportedPart, PartImporter, References
from facelib.sources.source import count_skipped
from ray_jobs.actors import ActorStage, device_options, stream_rows
from ray_jobs.datasets.writing import part_name

# Faces in one row group, about: training reads and shuffles dozens of row groups at a time.
GROUP_ROWS = 400


class IndexRange(NamedTuple):
    """Entries `begin` to `end` (exclusive) of a source's list, which become part number `part`."""

    part: int
    begin: int
    end: int


class ImportInputs(NamedTuple):
    """What all import actors need, in the object store: one copy per node."""

    source: FaceSource
    index: SourceIndex  # type: ignore[assignment]  # hides tuple.index
    references: References | None


class PartResult(NamedTuple):
    """A written part, or, with `info` None, the damaged entry that a strict import stops at."""

    range: IndexRange
    info: PartInfo | None
    damage: str


def import_stream(
    settings: Settings,
    source: FaceSource,
    index: SourceIndex,
    alignment: str,
    folder: Folder,
    fingerprint: str,
    ranges: Sequence[IndexRange],
    references: References | None,
) -> Iterator[PartResult]:
    """Write the parts of `ranges`; results come in the order they are finished.

    Args:
        alignment: none, given or detect.
        fingerprint: of the dataset's spec, for the parts' footers.
    """
    import ray

    if not ranges:
        return
    inputs = ray.put(ImportInputs(source, dataclasses.replace(index, skipped=[]), references))
    args = (settings, alignment, folder.uri, fingerprint, inputs)
    stages = (ActorStage(ImportActor, args, "import_data", settings.import_data),)
    for row in stream_rows([r._asdict() for r in ranges], stages, settings):
        info = PartInfo.model_validate_json(row["info"]) if row["info"] else None
        yield PartResult(IndexRange(row["part"], row["begin"], row["end"]), info, row["damage"])


class ImportActor:
    """Actor: imports a range of entries and writes it as a part."""

    def __init__(self, settings: Settings, alignment: str, uri: str, fingerprint: str, inputs: Any) -> None:
        import ray

        # Not prepare_actor_process: PyTorch, seconds and half a gigabyte, is loaded only by actors that embed.
        cv2.setNumThreads(1)
        cfg = settings.import_data.model_copy(update={"alignment": alignment})
        self.cfg, self.fingerprint = cfg, fingerprint
        self.folder, self.accounts = Folder(uri), Folder(account_uri(uri))
        source, self.index, references = ray.get(inputs)
        self.importer = PartImporter(
            source,
            cfg.source,
            cfg,
            settings.align,
            detector=_detector(settings) if alignment == "detect" else None,
            embed=load_embed(settings) if cfg.model else None,
            references=references,
        )

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        part = self.importer.run(self.index.entries(row["begin"], row["end"]))
        damage = next((str(s) for s in part.skipped if s.damage), "") if self.cfg.damaged == "fail" else ""
        if damage:
            return {**row, "info": "", "damage": damage}
        # The account first, so that every part that exists has one.
        self.accounts.write(account_name(row["part"]), account_bytes(part))
        faces, left_out = faces_to_table(part.faces), count_skipped(part.skipped)
        identities = len({face.identity for face in part.faces})
        per_group = max(1, GROUP_ROWS * identities // max(len(part.faces), 1))
        name, requested = part_name(row["part"]), row["end"] - row["begin"]
        info = write_part(self.folder, name, faces, requested, left_out, self.fingerprint, per_group)
        return {**row, "info": info.model_dump_json(), "damage": ""}


def account_uri(uri: str) -> str:
    """Folder of the accounts of a dataset's parts, `<dataset>/import`."""
    return f"{uri.rstrip('/')}/import"


def account_name(part: int) -> str:
    """`part-0000012.json`."""
    return part_name(part).replace(".parquet", ".json")


def account_bytes(part: ImportedPart) -> bytes:
    """JSON of what a part left out, and of what the import report needs from it."""
    tree = {
        "skipped": [list(dataclasses.astuple(s)) for s in part.skipped],
        "resized": part.resized,
        "fingerprints": part.fingerprints,
        "overlaps": [dataclasses.asdict(o) for o in part.overlaps],
    }
    return json.dumps(tree).encode()


def load_embed(settings: Settings) -> Embed:
    """Embed encoded faces with `import_data.model`, flipped faces added, on a GPU if the actor reserved one."""
    import torch

    from facelib.embedding import embed_images, load_face_model
    from facelib.utils.devices import actor_device

    cfg: ImportSettings = settings.import_data
    device = actor_device(cfg.gpus_per_actor, cpus=1)
    backbone = load_face_model(settings.path(cfg.model), settings.model.normalization)
    backbone = backbone.to(device).to(memory_format=torch.channels_last)
    return lambda images: embed_images(backbone, images, batch_size=64)


def _detector(settings: Settings) -> Any:
    from facelib.alignment import build_detector

    options = device_options(settings.align.options, settings.import_data.gpus_per_actor)
    return build_detector(settings.align.detector, **options)
