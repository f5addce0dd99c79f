"""Export a trained model: an ONNX file, compared with PyTorch, and an MLflow model from images to embeddings.

Writes <output>/export/model.onnx and <output>/export/mlflow_model, and both as artifacts of the MLflow run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from facelib.config import Settings
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.data import Folder
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check detector and template, which go into the exported model, and that the checkpoint exists.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    from ray_jobs.validation import check_align, check_checkpoint_exists

    check_align(settings.align)
    check_checkpoint_exists(settings, "export.model", settings.export.model, upcoming)


@job
def export(settings: Settings, run: Run) -> JobResult:
    """Export `settings.export.model`."""
    from facelib.data import Folder
    from facelib.embedding import load_face_model
    from facelib.export import export_onnx, save_mlflow_model
    from facelib.models import read_checkpoint

    cfg = settings.export
    target = Folder(settings.path(cfg.folder)).create()
    checkpoint = settings.path(cfg.model)
    try:
        image_spec = dict(read_checkpoint(checkpoint).image_spec or {})
    except FileNotFoundError as error:
        raise JobError(f"export.model: {error}; train it first, or name another checkpoint") from None
    image_spec.pop("normalization", None)  # The exported network takes images in [-1, 1].
    with tempfile.TemporaryDirectory() as temporary:
        onnx = Path(temporary) / "model.onnx"
        check = export_onnx(load_face_model(checkpoint, settings.model.normalization), onnx, image_spec, cfg.tolerance)
        batches = ", ".join(map(str, check.batches))
        print(
            f"model.onnx: relative difference from PyTorch {check.difference:.1e}, in batches of {batches}", flush=True
        )
        metrics = {"onnx/difference": check.difference}
        run.log_metrics(metrics)
        target.write(onnx.name, onnx.read_bytes())
        run.log_file(onnx)
        if cfg.mlflow:
            align = settings.align
            model = save_mlflow_model(
                Path(temporary) / "mlflow_model",
                onnx,
                example_image(settings.seed),
                align.detector,
                align.options,
                align.min_score,
                align.selection,
                {"checkpoint": checkpoint},
            )
            _replace_folder(model, target, model.name)
            run.log_model(model, model.name, "pyfunc", settings.tracking.registered_model, checkpoint=checkpoint)
            print(f"MLflow: mlflow.pyfunc.load_model('runs:/{run.run_id}/{model.name}')", flush=True)
    return JobResult(written=(target.uri,), metrics=metrics)


def example_image(seed: int) -> bytes:
    """An encoded image of a synthetic identity, so that no real face is published with the model."""
    import numpy as np

    from facelib.data import encode_image
    from facelib.synthesis import build_generator

    generator = build_generator("morphable", image_size=192)
    first = np.zeros(1, np.int64)
    codes, factors = generator.identity_codes(seed, first), generator.image_factors(seed, first, first)
    return encode_image(generator.render(codes, factors)[0])


def _replace_folder(source: Path, target: Folder, name: str) -> None:
    """Copy a local folder to `<target>/<name>`, replacing an older copy."""
    import pyarrow.fs as pafs

    path = f"{target.path}/{name}"
    if target.fs.get_file_info(path).type == pafs.FileType.Directory:
        target.fs.delete_dir(path)
    if isinstance(target.fs, pafs.LocalFileSystem):
        shutil.copytree(source, path)
        return
    target.fs.create_dir(path, recursive=True)
    pafs.copy_files(str(source), path, destination_filesystem=target.fs)


if __name__ == "__main__":
    main(export)
