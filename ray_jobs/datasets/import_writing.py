"""Writing an imported dataset: its missing parts on actors, then the manifest."""

from typing import Any

from facelib.config import Settings
from facelib.data import Folder, ImageSpec
from facelib.data.fingerprint import spec_fingerprint
from facelib.sources import FaceSource, SourceIndex
from facelib.tracking import Run
from ray_jobs.datasets.importing import IndexRange, import_stream
from ray_jobs.datasets.overlap import embed_references
from ray_jobs.datasets.writing import finished_parts, part_manifest, write_manifest
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport


def write_imported_parts(
    folder: Folder, settings: Settings, spec: dict[str, Any], source: FaceSource, index: SourceIndex, run: Run
) -> None:
    """Import the missing parts of a dataset, and then write its manifest.

    Args:
        spec: of the dataset, see `ray_jobs.import_data.import_spec`.

    Raises:
        JobError: an entry is damaged and `import_data.damaged` is fail, or no face is left.
    """
    name, cfg = settings.data.dataset, settings.import_data
    if cfg.model:
        _check_model(settings)
    folder.clean_temp_files()
    fingerprint = spec_fingerprint(spec)
    finished = finished_parts(folder, fingerprint)
    ranges = [IndexRange(part, *bounds) for part, bounds in enumerate(index.split(cfg.images_per_part))]
    missing = [r for r in ranges if r.part not in finished]
    if finished:
        print(f"{name}: {len(finished)} of {len(ranges)} parts already exist", flush=True)
    references = embed_references(settings) if cfg.overlap_sets and missing else None
    left_out = 0
    with ProgressReport(name, sum(r.end - r.begin for r in missing)) as progress:
        for result in import_stream(
            settings, source, index, spec["alignment"], folder, fingerprint, missing, references
        ):
            if result.info is None:
                raise JobError(f"{cfg.path_text}: {result.damage}; set import_data.damaged=skip to leave it out")
            left_out += result.info.requested - result.info.rows
            finished[result.range.part] = result.info
            progress.advance(result.range.end - result.range.begin, f"({left_out} left out)")
        run.log_metrics({"import/images_per_second": progress.rate})
    manifest = part_manifest(spec, finished.values())
    if not manifest.images:
        raise JobError(
            f"{cfg.path_text}: no face is left of {len(index)} images: {manifest.counts}; see {folder.uri}/import"
        )
    write_manifest(folder, manifest)


def _check_model(settings: Settings) -> None:
    """Refuse a model trained with another image spec; published formats do not state theirs."""
    from facelib.models import load_checkpoint_image_spec

    image_spec = ImageSpec(template=settings.align.template, size=settings.align.size)
    trained_on = image_spec.overlaid(load_checkpoint_image_spec(settings.path(settings.import_data.model)))
    trained_on.require(image_spec, f"import_data.model={settings.import_data.model}", "the imported faces")
