"""Export images as files, a folder for each identity, out of a face dataset or RecordIO.

Writes <output>/image_tree: images/<identity>/<image> in the layout of USynthFace or of insightface's rec2image, the
stored bytes undecoded; left_out.json (what cannot be read, and why); and manifest.json last. A killed job continues;
the folder of an identity appears whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.sources.image_export import ImageInput
    from facelib.sources.recordio_source import RecordIOSource
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check that the input is there, and that no other job writes to the same folder.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting and what is wrong with it.
        DatasetError: a dataset is missing or unfinished, or the output folder is in use.
    """
    from ray_jobs.validation import check_output, open_dataset

    cfg = settings.export_images
    if not cfg.inputs or not all(cfg.inputs):
        raise SettingsError("export_images.input: empty; give a face dataset or a .rec file")
    if open_recordio(settings) is None:
        if cfg.options:
            raise SettingsError("export_images.options: they are RecordIO's; leave them out for a face dataset")
        open_dataset(settings, cfg.inputs[0], upcoming)
    check_output(settings.path(cfg.folder))


@job
def export_images(settings: Settings, run: Run) -> JobResult:
    """Export `settings.export_images.input`, or what is missing of it."""
    from facelib.data import MANIFEST_NAME, Folder
    from facelib.data.fingerprint import claim_output_dir
    from facelib.data.image_tree import TREE
    from facelib.data.lock import directory_lock
    from ray_jobs.datasets.image_export import write_image_tree

    cfg = settings.export_images
    images = open_images(settings)
    folder = Folder(settings.path(cfg.folder)).create()
    spec = export_spec(settings, images)
    with directory_lock(folder, "export_images"):
        claim_output_dir(folder, spec)
        if not folder.exists(MANIFEST_NAME):
            write_image_tree(folder, settings, images, spec)
    manifest = json.loads(folder.read(MANIFEST_NAME))
    print(f"{manifest['images']} images of {manifest['identities']} identities, {manifest['bytes'] / 1e6:.0f} MB")
    if manifest["license"]:
        print(f"license: {manifest['license']}")
    for reason, count in manifest["left_out"].items():
        print(f"  left out, {reason}: {count}")
    run.log_json(manifest, f"image_tree/{MANIFEST_NAME}")
    metrics = {name: float(manifest[name]) for name in ("images", "identities")}
    run.log_metrics(metrics)
    return JobResult(written=(f"{folder.uri}/{TREE}",), metrics=metrics)


def open_recordio(settings: Settings) -> RecordIOSource | None:
    """The RecordIO files that the settings name; None: they name a face dataset.

    Raises:
        SettingsError: a file that is missing or of another kind.
    """
    from facelib.sources import build_source
    from facelib.sources.image_export import is_recordio
    from facelib.sources.recordio_source import RecordIOSource
    from ray_jobs.validation import checked_field

    cfg = settings.export_images
    if not is_recordio(cfg.inputs):
        return None
    with checked_field("export_images.input, export_images.options"):
        source = build_source("recordio", cfg.inputs, **cfg.options)
    assert isinstance(source, RecordIOSource)
    return source


def open_images(settings: Settings) -> ImageInput:
    """What to export, listed.

    Raises:
        JobError: RecordIO files without a readable image.
    """
    from facelib.sources.image_export import DatasetImages, RecordIOImages
    from facelib.sources.source import SourceError

    cfg = settings.export_images
    source = open_recordio(settings)
    if source is None:
        return DatasetImages(settings.path(cfg.inputs[0]))
    print(f"listing {', '.join(cfg.inputs)}", flush=True)
    try:
        return RecordIOImages(source, cfg.images_per_part)
    except SourceError as error:
        raise JobError(f"export_images.input: {error}") from None


def export_spec(settings: Settings, images: ImageInput) -> dict[str, Any]:
    """What decides the tree and how it is cut into parts."""
    from facelib.sources.image_export import is_recordio

    cfg = settings.export_images
    spec: dict[str, Any] = {"input": images.fingerprint, "layout": cfg.layout}
    if is_recordio(cfg.inputs):
        spec["images_per_part"] = cfg.images_per_part
    return spec


if __name__ == "__main__":
    main(export_images)
