"""Quality report of face sets: detection, pose, light, expression, sharpness, near copies, and identities.

Compares inspect.sets, stored datasets of any generator or .bin files. With inspect.model, that model's embeddings show
how well identities are separated. Writes <output>/inspection: report.json and, for each set, contact sheets of its
extremes, look-alikes and scattered identities.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.inspection import SetReport
    from facelib.tracking import Run
    from ray_jobs.datasets.inspection import FaceSet


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check that there are sets to measure, each under its own name, and that they and the checkpoint exist.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: a dataset is missing.
    """
    from facelib.evaluation.protocols import parse_spec
    from facelib.sources.bins import is_bin
    from ray_jobs.validation import (
        check_checkpoint_exists,
        check_sets,
        check_unique,
        checked_field,
        open_dataset,
    )

    texts = settings.inspect.sets
    if not texts:
        raise SettingsError("inspect.sets: empty; give at least one set to inspect")
    with checked_field("inspect.sets"):
        specs = [parse_spec(text) for text in texts]
    check_unique("inspect.sets", [spec.name for spec in specs], "give the sets names, name=path")
    check_sets("inspect.sets", [text for text in texts if is_bin(text)], upcoming)
    for spec in specs:
        if not is_bin(spec.path):
            open_dataset(settings, spec.path, upcoming)
    check_checkpoint_exists(settings, "inspect.model", settings.inspect.model, upcoming)


@job
def inspect_dataset(settings: Settings, run: Run) -> JobResult:
    """Measure all sets and compare them."""
    from facelib.data import Folder
    from facelib.inspection import MEASURES, compare_table
    from facelib.plots.inspection_sheets import draw_inspection_sheets
    from ray_jobs.datasets.inspection import make_set_report, measure_set, open_face_set
    from ray_jobs.progress import console

    cfg = settings.inspect
    sets = [open_face_set(settings, text) for text in cfg.sets]
    model = settings.path(cfg.model) if cfg.model else ""
    if model:
        _check_image_spec(model, sets)
    folder = Folder(settings.path("inspection")).create()
    reports: dict[str, SetReport] = {}
    metrics: dict[str, float] = {}
    for face_set in sets:
        measured = measure_set(face_set, cfg, model, settings.ray.autoscaling, settings.model.normalization)
        report = reports[face_set.name] = make_set_report(face_set, measured, cfg, settings.seed)
        with tempfile.TemporaryDirectory() as temporary:
            for path in draw_inspection_sheets(report, measured, face_set.face_loader(measured), Path(temporary)):
                run.log_file(path, "plots")
                folder.write(path.name, path.read_bytes())
        numbers = {f"{face_set.name}/{name}": number for name, number in report.numbers().items()}
        run.log_metrics(numbers)
        metrics |= numbers
    console().print(compare_table(reports))
    tree = {"model": model, "sets": {name: report.to_dict() for name, report in reports.items()}, "units": MEASURES}
    folder.write("report.json", json.dumps(tree, indent=1).encode())
    run.log_json(tree, "report.json")
    return JobResult(written=(f"{folder.uri}/report.json",), metrics=metrics)


def _check_image_spec(model: str, sets: Sequence[FaceSet]) -> None:
    """Refuse sets whose image spec differs from what the checkpoint states about its training."""
    from facelib.models import load_checkpoint_image_spec

    trained_on = load_checkpoint_image_spec(model)
    for face_set in sets:
        image_spec = face_set.image_spec.overlaid(trained_on)
        image_spec.require(face_set.image_spec, f"model {model}", f"set {face_set.name}")


if __name__ == "__main__":
    main(inspect_dataset)
