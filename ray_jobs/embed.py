"""Embed any images with a model: a face dataset or a folder of images (with subfolders), to Parquet.

Writes <output>/embeddings: parts/part-*.parquet with name, identity, index, score, rejected and embedding (null where
there is no face), in the input's order, left_out.json (what else is in the folder, and why it is not embedded), and
manifest.json last. A killed job continues where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.data import ImageSpec
    from facelib.tracking import Run

LEFT_OUT = "left_out.json"


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check detector and template, that model and input exist, and that no other job writes to the same folder.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: the output folder is in use.
    """
    from ray_jobs.validation import check_align, check_checkpoint_exists, check_output, is_upcoming

    check_align(settings.align)
    check_checkpoint_exists(settings, "embed.model", settings.embed.model, upcoming)
    source = settings.path(settings.embed.input)
    if "://" not in source and not is_upcoming(source, upcoming) and not Path(source).is_dir():
        raise SettingsError(f"embed.input: {source} is not a folder")
    check_output(settings.path(settings.embed.folder))


@job
def embed(settings: Settings, run: Run) -> JobResult:
    """Embed `settings.embed.input`, or what is missing of it."""
    from facelib.data import MANIFEST_NAME, Folder
    from facelib.data.fingerprint import claim_output_dir
    from facelib.data.lock import directory_lock
    from facelib.data.storage import file_sha256
    from facelib.sources.source import count_skipped
    from facelib.utils.flip import flip_key
    from ray_jobs.embedding.tasks import list_input
    from ray_jobs.embedding.writing import embedding_manifest, write_embedding_parts

    cfg, align = settings.embed, settings.align
    model = settings.path(cfg.model)
    image_spec = model_image_spec(settings, model)
    found = list_input(cfg, settings.path(cfg.input), image_spec)
    folder = Folder(settings.path(cfg.folder)).create()
    spec = {
        "model": file_sha256(model),
        "input": found.listing,
        "image_spec": image_spec.model_dump(),
        **{name: getattr(cfg, name) for name in ("aligned", "normalize", "precision", "images_per_part")},
        "flip": flip_key(cfg.flip),
        **{f"align_{name}": getattr(align, name) for name in ("detector", "options", "min_score")},
        **align.selection_spec,
    }
    if settings.model.normalization != "auto":
        spec["normalization"] = settings.model.normalization
    with directory_lock(folder, "embed"):
        claim_output_dir(folder, spec)
        # A separate folder: readers of Parquet folders fail on any other file.
        parts = Folder(f"{folder.uri}/parts").create()
        if not folder.exists(MANIFEST_NAME):
            parts.clean_temp_files()
            write_embedding_parts(settings, parts, model, image_spec, found.tasks)
            rows = [[s.reason, s.place, s.detail] for s in found.left_out]
            folder.write(LEFT_OUT, json.dumps(rows, indent=0).encode())
            content = embedding_manifest(parts, spec) | {"left_out": count_skipped(found.left_out)}
            folder.write(MANIFEST_NAME, json.dumps(content, indent=1).encode())
    manifest = json.loads(folder.read(MANIFEST_NAME))
    print(f"{manifest['images']} images, {manifest['embedded']} embedded in {manifest['dimensions']} dimensions")
    for reason, count in manifest["rejected"].items():
        print(f"  rejected, {reason}: {count}")
    for reason, count in manifest.get("left_out", {}).items():
        print(f"  left out, {reason}: {count}")
    run.log_json(manifest, f"embeddings/{MANIFEST_NAME}")
    metrics = {name: float(manifest[name]) for name in ("images", "embedded")}
    run.log_metrics(metrics)
    return JobResult(written=(parts.uri,), metrics=metrics)


def model_image_spec(settings: Settings, model: str, setting: str = "embed.model") -> ImageSpec:
    """Image spec that a checkpoint was trained with; what it does not state is as `align` says.

    Args:
        model: path or URI.
        setting: that names it, for messages.
    """
    from facelib.data import ImageSpec
    from facelib.models import read_checkpoint

    try:
        checkpoint = read_checkpoint(model)
    except FileNotFoundError as error:
        raise JobError(f"{setting}: {error}; train it first, or name another checkpoint") from None
    checkpoint.require_normalization(model, settings.model.normalization)
    return ImageSpec(template=settings.align.template, size=settings.align.size).overlaid(checkpoint.image_spec)


if __name__ == "__main__":
    main(embed)
