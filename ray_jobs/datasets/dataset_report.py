"""Parts of a face dataset as jobs make them: their names, those that are there already, and the dataset they become."""

import contextlib
import importlib.metadata
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from facelib.data import (
    MANIFEST_NAME,
    FaceDataset,
    Folder,
    ImageSpec,
    Manifest,
    PartInfo,
    decode_image,
    make_manifest,
    read_part_info,
)
from facelib.tracking import Run


def part_name(part: int) -> str:
    """`part-0000012.parquet`."""
    return f"part-{part:07d}.parquet"


def finished_parts(folder: Folder, key: str) -> dict[int, PartInfo]:
    """Parts in the folder, by number; `DatasetError` when one is damaged or was made with other settings than `key`."""
    finished = {}
    for name in folder.names():
        if match := re.fullmatch(r"part-(\d{7})\.parquet", name):
            finished[int(match[1])] = read_part_info(folder, name, key)
    return finished


def part_manifest(spec: dict[str, Any], parts: Iterable[PartInfo]) -> Manifest:
    """The manifest of a dataset made of `parts` under `spec`, which holds its template and size."""
    return make_manifest(ImageSpec(template=spec["template"], size=spec["size"]), spec, list(parts), versions())


def report_dataset(folder: Folder, name: str, run: Run) -> FaceDataset:
    """Open a finished dataset and say what it holds: a line, its manifest and numbers in MLflow, a contact sheet."""
    dataset = FaceDataset(folder.uri)
    dataset.check_parts()
    counts = dataset.manifest.counts
    share = counts["aligned"] / max(counts["requested"], 1)
    print(f"{name}: {dataset.manifest.identities} identities, {counts['aligned']} faces ({share:.2%} of the pictures)")
    run.log_json(dataset.manifest.model_dump(), f"{name.strip('/').replace('/', '_')}/{MANIFEST_NAME}")
    run.log_metrics(dataset_metrics(dataset))
    log_contact_sheet(dataset, run, Path(name).name)
    return dataset


def dataset_metrics(dataset: FaceDataset) -> dict[str, float]:
    """Counts of a dataset's manifest by `<folder name>/<count>`, as they are logged in MLflow."""
    name = Path(dataset.folder.uri).name
    return {f"{name}/{count.replace(':', '/')}": number for count, number in dataset.manifest.counts.items()}


def log_contact_sheet(dataset: FaceDataset, run: Run, name: str, rows: int = 12, columns: int = 8) -> None:
    """Picture of the first identities, a row each, into the MLflow run."""
    from facelib.plots.contact_sheet import contact_sheet

    table = next((t for t in dataset.tables(["image", "identity"]) if len(t)), None)
    if table is None:
        return  # Every picture was rejected; the counts say why.
    identities = table["identity"].to_numpy()
    grid = []
    for identity in np.unique(identities)[:rows]:
        found = table["image"].filter(pa.array(identities == identity)).slice(0, columns).to_pylist()
        grid.append([decode_image(data) for data in found])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"contact_sheet_{name}.png"
        contact_sheet(grid, path, title=f"{name}: a row is an identity")
        run.log_file(path, "pictures")
        if "://" not in dataset.folder.uri:
            Folder(dataset.folder.uri).write("contact_sheet.png", path.read_bytes())


def versions() -> dict[str, str]:
    """Versions of what decides a result's bytes."""
    names = ("facelib", "numpy", "torch", "opencv-python", "onnxruntime", "tensorflow", "mtcnn", "pyarrow", "ray")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
