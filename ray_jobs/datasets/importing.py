"""Ray Data stream of an import: ranges of a source's list → actors that read, align, filter and write a part each.

A part is made from first to last byte by one actor: no picture travels between processes, and the driver sees counts.
What a part left out, and why, lies beside it in `import/`, written first: a part that is there has its account.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import ray

from facelib.config import ImportSettings, Settings
from facelib.data import Folder, PartInfo, faces_to_table, write_part
from facelib.sources import FaceSource, SourceIndex
from facelib.sources.importing import Embed, ImportedPart, PartImporter, References
from facelib.sources.source import count_skipped
from ray_jobs.actors import device_options
from ray_jobs.datasets.dataset_report import part_name

# Training reads and shuffles dozens of row groups at a time: about this many faces in each, however many a person has.
GROUP_ROWS = 400


class Range(NamedTuple):
    """Entries `begin` … `end − 1` of the list become part number `part`."""

    part: int
    begin: int
    end: int


class Shared(NamedTuple):
    """What all actors need: one copy on each node."""

    source: FaceSource
    index: SourceIndex
    references: References | None


class PartDone(NamedTuple):
    """A part that was written, or (`info` is None) the damage that a strict import stopped at."""

    range: Range
    info: PartInfo | None
    damage: str


def import_stream(
    settings: Settings,
    source: FaceSource,
    index: SourceIndex,
    alignment: str,
    folder: Folder,
    key: str,
    ranges: Sequence[Range],
    references: References | None,
) -> Iterator[PartDone]:
    """Make the parts `ranges`; they come back in the order they are finished.

    Args:
        alignment: none, given or detect.
        key: hash of the spec, for the parts' footers.
    """
    if not ranges:
        return
    cfg = settings.import_data
    shared = ray.put(Shared(source, dataclasses.replace(index, skipped=[]), references))
    stream = ray.data.from_items([r._asdict() for r in ranges], override_num_blocks=min(len(ranges), 2000)).map(
        ImportActor,
        fn_constructor_args=(settings, alignment, folder.uri, key, shared),
        compute=ray.data.ActorPoolStrategy(size=min(cfg.actors, len(ranges))),
        num_cpus=cfg.cpus_per_actor,
        num_gpus=cfg.gpus_per_actor,
    )
    for row in stream.iter_rows():
        info = PartInfo.model_validate_json(row["info"]) if row["info"] else None
        yield PartDone(Range(row["part"], row["begin"], row["end"]), info, row["damage"])


class ImportActor:
    """Actor: makes parts."""

    def __init__(
        self,
        settings: Settings,
        alignment: str,
        uri: str,
        key: str,
        shared: "ray.ObjectRef[Shared]",
    ) -> None:
        # Actors are the parallelism. PyTorch, seconds and half a gigabyte, is loaded by those alone that embed.
        cv2.setNumThreads(1)
        cfg = settings.import_data.model_copy(update={"alignment": alignment})
        self.cfg, self.key = cfg, key
        self.folder, self.account = Folder(uri), Folder(account_uri(uri))
        source, self.index, references = ray.get(shared)
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
        # The account first: a part that is there has one.
        self.account.write(account_name(row["part"]), account_bytes(part))
        faces, left_out = faces_to_table(part.faces), count_skipped(part.skipped)
        people = len({face.identity for face in part.faces})
        per_group = max(1, GROUP_ROWS * people // max(len(part.faces), 1))
        requested = row["end"] - row["begin"]
        info = write_part(self.folder, part_name(row["part"]), faces, requested, left_out, self.key, per_group)
        return {**row, "info": info.model_dump_json(), "damage": ""}


def account_uri(uri: str) -> str:
    """Folder of the accounts of a dataset's parts."""
    return f"{uri.rstrip('/')}/import"


def account_name(part: int) -> str:
    """`part-0000012.json`."""
    return part_name(part).replace(".parquet", ".json")


def account_bytes(part: ImportedPart) -> bytes:
    """What a part left out, and what the whole report needs to know of it."""
    tree = {
        "skipped": [[s.reason, s.place, s.detail, s.damage] for s in part.skipped],
        "resized": part.resized,
        "fingerprints": part.fingerprints,
        "overlaps": [dataclasses.asdict(o) for o in part.overlaps],
    }
    return json.dumps(tree).encode()


def load_embed(settings: Settings) -> Embed:
    """Embedding of encoded faces by `import_data.model`, mirrored faces added, on a GPU if the actor holds one."""
    import torch

    from facelib.embedding import embed_images, load_face_model
    from facelib.utils.devices import actor_device

    cfg: ImportSettings = settings.import_data
    device = actor_device(cfg.gpus_per_actor, cpus=1)
    backbone = load_face_model(settings.path(cfg.model)).to(device).to(memory_format=torch.channels_last)
    return lambda images: embed_images(backbone, images, batch_size=64)


def _detector(settings: Settings) -> Any:
    from facelib.alignment import build_detector

    options = device_options(settings.align.options, settings.import_data.gpus_per_actor)
    return build_detector(settings.align.detector, **options)
