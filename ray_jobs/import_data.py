"""Import face images: folders, RecordIO, LFW, K-FACE, IJB, `.bin`, aligned during the import, or already.

Writes <output>/<data.dataset>: parts, manifest, contact sheet, identities.parquet (names), import_report.json (what was
left out, and why), and a .bin for each pair list of the source. A killed job continues: finished parts are kept, and
the result is the same bytes.
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
    from facelib.sources import FaceSource, SourceIndex
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check the source, how its faces are aligned, and the files that filters need.

    Args:
        upcoming: checkpoints that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    from facelib.sources import build_source
    from ray_jobs.validation import check_align, check_checkpoint_exists, check_output, check_sets, checked_field

    cfg, align = settings.import_data, settings.align
    if not cfg.path:
        raise SettingsError("import_data.path: empty; give the folder or file to import")
    with checked_field("import_data.source, import_data.path, import_data.options"):
        source = build_source(cfg.source, cfg.path, **cfg.options)
    alignment = source.alignment if cfg.alignment == "auto" else cfg.alignment
    check_align(align, detector=alignment == "detect")
    if alignment == "given" and source.alignment != "given":
        raise SettingsError(
            f"import_data.alignment: source {cfg.source} has no landmarks here; set it to detect or none"
        )
    if (cfg.duplicates == "embedding" or cfg.overlap_sets) and not cfg.model:
        raise SettingsError("import_data.model: empty; duplicates=embedding and overlap_sets need a checkpoint")
    check_checkpoint_exists(settings, "import_data.model", cfg.model, upcoming)
    check_sets("import_data.overlap_sets", cfg.overlap_sets, upcoming)
    check_output(settings.path(settings.data.dataset))


@job
def import_data(settings: Settings, run: Run) -> JobResult:
    """Import the source that the settings describe, or what is missing of it."""
    from facelib.data import MANIFEST_NAME, Folder
    from facelib.data.fingerprint import claim_output_dir
    from facelib.data.lock import directory_lock
    from facelib.sources import build_source
    from facelib.utils.wording import counted
    from ray_jobs.datasets.dataset_report import dataset_metrics, report_dataset
    from ray_jobs.datasets.import_report import REPORT, make_report, print_report, write_listing
    from ray_jobs.datasets.import_writing import write_imported_parts
    from ray_jobs.datasets.pair_files import write_pair_file

    cfg = settings.import_data
    source = build_source(cfg.source, cfg.path, **cfg.options)
    print(f"{cfg.source}: listing {cfg.path_text}", flush=True)
    index = source.index()
    print(f"{cfg.source}: {counted(len(index), 'image')} of {counted(len(index.names), 'identity')}", flush=True)
    if not len(index):
        first = f", the first is {index.skipped[0]}" if index.skipped else ""
        raise JobError(f"{cfg.path_text}: no image in the layout of {cfg.source}; {len(index.skipped)} left out{first}")
    damaged = [s for s in index.skipped if s.damage]
    if damaged and cfg.damaged == "fail":
        raise JobError(
            f"{cfg.path_text}: {len(damaged)} entries are damaged, the first is {damaged[0]}; set "
            "import_data.damaged=skip to leave them out"
        )
    folder = Folder(settings.path(settings.data.dataset)).create()
    spec = import_spec(settings, source, index)
    with directory_lock(folder, "import_data"):
        claim_output_dir(folder, spec)
        if not folder.exists(MANIFEST_NAME):
            write_listing(folder, index)
            write_imported_parts(folder, settings, spec, source, index, run)
    dataset = report_dataset(folder, settings.data.dataset, run)
    report = {"spec": spec, **make_report(dataset, index)}
    report["pairs"] = [write_pair_file(dataset, pairs, cfg.source) for pairs in source.pair_lists()]
    folder.write(REPORT, json.dumps(report, indent=1).encode())
    run.log_json(report, REPORT)
    left_out = {f"left_out/{reason}": float(n) for reason, n in report["left_out"].items()}
    run.log_metrics(left_out)
    print_report(report, settings.data.dataset)
    return JobResult(
        written=(folder.uri, *(pairs["file"] for pairs in report["pairs"])),
        metrics={**dataset_metrics(dataset), **left_out},
    )


def import_spec(settings: Settings, source: FaceSource, index: SourceIndex) -> dict[str, Any]:
    """All settings that decide the dataset's bytes, and no others (not the source's path, no actors)."""
    from facelib.data.storage import file_sha256
    from ray_jobs.datasets.overlap import overlap_set_hash

    cfg, align = settings.import_data, settings.align
    alignment = source.alignment if cfg.alignment == "auto" else cfg.alignment
    spec: dict[str, Any] = {
        "source": cfg.source,
        "list": index.fingerprint,
        "pictures": len(index),
        "alignment": alignment,
        "template": align.template,
        "size": align.size,
        "jpeg_quality": cfg.jpeg_quality,
        "verify": cfg.verify,
        "max_pixels": cfg.max_pixels,
        "min_images": cfg.min_images,
        "min_pixels": cfg.min_pixels,
        "min_sharpness": cfg.min_sharpness,
        "duplicates": cfg.duplicates,
        "images_per_part": cfg.images_per_part,
    }
    if alignment != "none":
        spec["min_score"] = align.min_score
    if alignment == "detect":
        spec |= {"detector": align.detector, "detector_options": align.options, **align.selection_spec}
    if cfg.duplicates == "hash":
        spec["duplicate_bits"] = cfg.duplicate_bits
    if cfg.duplicates == "embedding":
        spec["duplicate_similarity"] = cfg.duplicate_similarity
    if cfg.overlap_sets:
        spec |= {"overlap": cfg.overlap, "overlap_similarity": cfg.overlap_similarity}
        spec["overlap_sets"] = [overlap_set_hash(overlap) for overlap in cfg.overlap_sets]
    if cfg.model:
        spec["model"] = file_sha256(settings.path(cfg.model))[:32]
    return spec


if __name__ == "__main__":
    main(import_data)
