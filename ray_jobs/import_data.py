"""People's own pictures → a face dataset: folders, RecordIO, LFW, K-FACE, IJB, `.bin`, with or without alignment.

Writes <output>/<data.dataset>: parts, manifest, contact sheet, identities.parquet (names), import_report.json (what was
left out, and why), and a .bin for each pair list of the source. A killed job continues where it was: finished parts are
kept, and the result is the same bytes.
"""

import hashlib
import json
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import ray

from facelib.config import Settings, SettingsError
from facelib.data import MANIFEST_NAME, FaceDataset, Folder, ImageSpec, decode_image
from facelib.data.fingerprint import claim_output_dir, spec_fingerprint
from facelib.data.lock import directory_lock
from facelib.data.storage import file_sha256
from facelib.models import load_checkpoint_image_spec
from facelib.sources import FaceSource, PairList, SourceIndex, build_source, read_bin, write_bin
from facelib.sources.bins import bin_paths
from facelib.sources.importing import References
from facelib.tracking import Run
from facelib.utils.arrays import l2_normalize
from ray_jobs.cli import run_job
from ray_jobs.datasets.dataset_report import dataset_metrics, finished_parts, part_manifest, report_dataset
from ray_jobs.datasets.import_report import REPORT, make_report, print_report, write_listing
from ray_jobs.datasets.importing import Range, import_stream, load_embed
from ray_jobs.errors import JobError
from ray_jobs.progress import ProgressReport
from ray_jobs.resources import ActorRequest, check_resources
from ray_jobs.results import JobResult
from ray_jobs.validation import check_align, check_checkpoint_exists, check_sets, checked_field


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check the source, how its faces are aligned, and the files that filters need.

    Args:
        upcoming: checkpoints that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
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
    check_sets("import_data.overlap_sets", cfg.overlap_sets)


def import_data(settings: Settings, run: Run) -> JobResult:
    """Import the source that the settings describe, or finish it, or find it whole."""
    cfg = settings.import_data
    source = build_source(cfg.source, cfg.path, **cfg.options)
    print(f"{cfg.source}: listing {cfg.path}", flush=True)
    index = source.index()
    print(f"{cfg.source}: {len(index)} pictures of {len(index.names)} identities listed", flush=True)
    damage = [s for s in index.skipped if s.damage]
    if damage and cfg.damaged == "fail":
        raise JobError(
            f"{cfg.path}: {len(damage)} entries are damaged, the first is {damage[0]}; import_data.damaged=skip goes on"
        )
    folder = Folder(settings.path(settings.data.dataset)).create()
    spec = import_spec(settings, source, index)
    with directory_lock(folder, "import_data"):
        claim_output_dir(folder, spec)
        if not folder.exists(MANIFEST_NAME):
            write_listing(folder, index)
            _make_parts(folder, settings, spec, source, index, run)
    dataset = report_dataset(folder, settings.data.dataset, run)
    report = {"spec": spec, **make_report(dataset, index)}
    report["pairs"] = [_write_pairs(dataset, pairs, cfg.source) for pairs in source.pair_lists()]
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
    """Everything that decides the dataset's bytes, and nothing else (no actors, no place of the source)."""
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
        spec |= {"detector": align.detector, "detector_options": align.options}
    if cfg.duplicates == "hash":
        spec["duplicate_bits"] = cfg.duplicate_bits
    if cfg.duplicates == "embedding":
        spec["duplicate_similarity"] = cfg.duplicate_similarity
    if cfg.overlap_sets:
        spec |= {"overlap": cfg.overlap, "overlap_similarity": cfg.overlap_similarity}
        spec["overlap_sets"] = [_set_hash(spec) for spec in cfg.overlap_sets]
    if cfg.model:
        spec["model"] = _file_hash(settings.path(cfg.model))
    return spec


def _make_parts(
    folder: Folder, settings: Settings, spec: dict[str, Any], source: FaceSource, index: SourceIndex, run: Run
) -> None:
    name, cfg = settings.data.dataset, settings.import_data
    if cfg.model:
        _check_model(settings)
    folder.clean_temp_files()
    key = spec_fingerprint(spec)
    finished = finished_parts(folder, key)
    ranges = [Range(number, *cut) for number, cut in enumerate(index.split(cfg.images_per_part))]
    missing = [r for r in ranges if r.part not in finished]
    if finished:
        print(f"{name}: {len(finished)} of {len(ranges)} parts are there already", flush=True)
    if missing:
        check_resources(settings.ray.autoscaling, ActorRequest("import_data", cfg, 1))
    references = _references(settings) if cfg.overlap_sets and missing else None
    left_out = 0
    with ProgressReport(name, sum(r.end - r.begin for r in missing)) as progress:
        for done in import_stream(settings, source, index, spec["alignment"], folder, key, missing, references):
            if done.info is None:
                raise JobError(f"{cfg.path}: {done.damage}; import_data.damaged=skip counts it and goes on")
            left_out += done.info.requested - done.info.rows
            finished[done.range.part] = done.info
            progress.advance(done.range.end - done.range.begin, f"({left_out} left out)")
        run.log_metrics({"import/pictures_per_second": progress.rate})
    manifest = part_manifest(spec, finished.values())
    if not manifest.images:
        raise JobError(
            f"{cfg.path}: no face is left of {len(index)} pictures: {manifest.counts}; see {folder.uri}/import"
        )
    folder.write(MANIFEST_NAME, manifest.model_dump_json(indent=1).encode())


def _check_model(settings: Settings) -> None:
    """Refuse a model that was trained on faces of another kind; published formats do not say what they trained on."""
    image_spec = ImageSpec(template=settings.align.template, size=settings.align.size)
    trained_on = image_spec.overlaid(load_checkpoint_image_spec(settings.path(settings.import_data.model)))
    trained_on.require(image_spec, f"import_data.model={settings.import_data.model}", "the imported faces")


def _references(settings: Settings) -> References:
    """Embed the evaluation sets whose people must not be in the dataset."""
    cfg = settings.import_data
    image_spec = ImageSpec(template=settings.align.template, size=settings.align.size)
    images: list[bytes] = []
    names: list[str] = []
    for spec in cfg.overlap_sets:
        found = _set_pictures(spec, image_spec)
        images += found
        names += [f"{spec}, picture {i}" for i in range(len(found))]
    print(f"embedding {len(images)} pictures of import_data.overlap_sets", flush=True)
    task = ray.remote(_embed_references).options(num_cpus=cfg.cpus_per_actor, num_gpus=cfg.gpus_per_actor)
    return References(ray.get(task.remote(settings, images)), names)


def _embed_references(settings: Settings, images: list[bytes]) -> Any:
    return l2_normalize(load_embed(settings)(images))


def _set_pictures(spec: str, image_spec: ImageSpec) -> list[bytes]:
    """All pictures of a .bin, several as a.bin+b.bin, or of a face dataset."""
    if spec.endswith(".bin"):
        images = [image for path in bin_paths(spec) for image in read_bin(path)[0]]
        if images and decode_image(images[0]).shape[:2] != (image_spec.size, image_spec.size):
            side = decode_image(images[0]).shape[0]
            raise JobError(
                f"import_data.overlap_sets: {spec} has faces of {side} pixels, align.size is {image_spec.size}"
            )
        return images
    dataset = FaceDataset(spec)
    dataset.image_spec.require(image_spec, f"import_data.overlap_sets: {spec}", "the imported faces")
    return [image for table in dataset.tables(["image"]) for image in table["image"].to_pylist()]


def _write_pairs(dataset: FaceDataset, pairs: PairList, source_name: str) -> dict[str, Any]:
    """A pair list and the dataset's faces → `<dataset>/<name>.bin`; pairs without a face on both sides are named."""
    rows = {f"{source_name}:{place}": -1 for place in (*pairs.first, *pairs.second)}
    faces: list[bytes] = []
    for table in dataset.tables(["image", "source"]):
        for place, image in zip(table["source"].to_pylist(), table["image"], strict=True):
            if place in rows:
                rows[place] = len(faces)
                faces.append(image.as_py())
    found = [
        (rows[f"{source_name}:{a}"], rows[f"{source_name}:{b}"], bool(same), f"{a} {b}")
        for a, b, same in zip(pairs.first, pairs.second, pairs.issame.tolist(), strict=True)
    ]
    whole = [row for row in found if row[0] >= 0 and row[1] >= 0]
    missing = [row[3] for row in found if row[0] < 0 or row[1] < 0]
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "pairs.bin"
        write_bin(path, [faces[i] for row in whole for i in row[:2]], [row[2] for row in whole])
        dataset.folder.write(f"{pairs.name}.bin", path.read_bytes())
    if missing:
        print(
            f"warning: {len(missing)} of {len(found)} pairs of {pairs.name} have no face on a side, e.g. {missing[0]}"
        )
    file = f"{dataset.folder.uri}/{pairs.name}.bin"
    return {"name": pairs.name, "file": file, "pairs": len(whole), "missing": len(missing), "examples": missing[:20]}


def _set_hash(spec: str) -> str:
    if spec.endswith(".bin"):
        return "+".join(_file_hash(path) for path in bin_paths(spec))
    return hashlib.sha256(Folder(spec).read(MANIFEST_NAME)).hexdigest()[:32]


def _file_hash(path: str) -> str:
    return file_sha256(path)[:32]


if __name__ == "__main__":
    run_job("import_data", import_data, __doc__)
