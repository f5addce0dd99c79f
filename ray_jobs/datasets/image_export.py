"""Export of images on actors: each writes the identities of a part, then the part's account, which marks it as done."""

import dataclasses
import json
from collections import Counter
from typing import Any, NamedTuple

from facelib.config import Settings
from facelib.data import MANIFEST_NAME, Folder
from facelib.data.image_tree import ImageTree
from facelib.sources import Skipped
from facelib.sources.image_export import ImageInput
from facelib.sources.source import count_skipped
from ray_jobs.actors import ActorStage, stream_rows
from ray_jobs.datasets.importing import account_name
from ray_jobs.progress import ProgressReport

ACCOUNTS = "parts"
LEFT_OUT = "left_out.json"


class PartAccount(NamedTuple):
    """What became of a part's images."""

    identities: int
    images: int
    bytes: int
    skipped: list[list[Any]]  # fields of `Skipped`


def write_image_tree(folder: Folder, settings: Settings, images: ImageInput, spec: dict[str, Any]) -> dict[str, Any]:
    """Write the missing parts of the tree below `folder`, what was left out, and the manifest, which is returned.

    Args:
        spec: what decides the tree.
    """
    accounts = Folder(f"{folder.uri}/{ACCOUNTS}").create()
    tree = ImageTree(folder.uri)
    for place in (folder, accounts):
        place.clean_temp_files()
    tree.clean()
    existing = set(accounts.names())
    missing = [part for part in range(len(images.sizes)) if account_name(part) not in existing]
    if len(missing) < len(images.sizes):
        print(f"{len(images.sizes) - len(missing)} of {len(images.sizes)} parts already exist", flush=True)
    with ProgressReport("export", sum(images.sizes[part] for part in missing)) as progress:
        for row in _export(settings, folder.uri, images, missing):
            progress.advance(images.sizes[row["part"]])
    tree.clean()
    done = [PartAccount(*json.loads(accounts.read(account_name(part)))) for part in range(len(images.sizes))]
    skipped = images.skipped + [Skipped(*fields) for account in done for fields in account.skipped]
    manifest = {
        "spec": spec,
        "license": images.license,
        "identities": sum(account.identities for account in done),
        "images": sum(account.images for account in done),
        "bytes": sum(account.bytes for account in done),
        "left_out": count_skipped(skipped),
    }
    folder.write(LEFT_OUT, json.dumps([[s.reason, s.place, s.detail] for s in skipped], indent=0).encode())
    folder.write(MANIFEST_NAME, json.dumps(manifest, indent=1).encode())
    return manifest


def _export(settings: Settings, uri: str, images: ImageInput, missing: list[int]) -> Any:
    import ray

    if not missing:
        return iter(())
    cfg = settings.export_images
    stages = (ActorStage(ImageExportActor, (uri, cfg.layout, ray.put(images)), "export_images", cfg),)
    return stream_rows([{"part": part} for part in missing], stages, settings)


class ImageExportActor:
    """Actor: writes the images of one part."""

    def __init__(self, uri: str, layout: str, images: Any) -> None:
        import ray

        self.uri, self.layout, self.images = uri, layout, ray.get(images)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        export_part(self.uri, self.layout, self.images, row["part"])
        return row


def export_part(uri: str, layout: str, images: ImageInput, part: int) -> None:
    """Write the identities of a part, and its account last."""
    tree, skipped, counts = ImageTree(uri), [], Counter[str]()
    for item in images.read(part):
        if isinstance(item, Skipped):
            skipped.append(list(dataclasses.astuple(item)))
            continue
        tree.write(*item.files(layout))
        counts.update(identities=1, images=len(item.images), bytes=sum(len(data) for _, data in item.images))
    account = PartAccount(counts["identities"], counts["images"], counts["bytes"], skipped)
    Folder(f"{uri}/{ACCOUNTS}").write(account_name(part), json.dumps(account).encode())
