"""What is shown of a finished face dataset: a line of counts, its manifest and metrics in MLflow, a contact sheet."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from facelib.data import MANIFEST_NAME, FaceDataset, Folder, decode_image
from facelib.tracking import Run
from facelib.utils.wording import counted


def report_dataset(folder: Folder, name: str, run: Run) -> FaceDataset:
    """Open and check a finished dataset, print its counts, and log manifest, metrics and contact sheet.

    Raises:
        DatasetError: a part is missing or does not match the manifest.
    """
    dataset = FaceDataset(folder.uri)
    dataset.check_parts()
    counts = dataset.manifest.counts
    share = counts["aligned"] / max(counts["requested"], 1)
    found = f"{counted(dataset.manifest.identities, 'identity')}, {counted(counts['aligned'], 'face')}"
    print(f"{name}: {found} ({share:.2%} of the images)")
    run.log_json(dataset.manifest.model_dump(), f"{name.strip('/').replace('/', '_')}/{MANIFEST_NAME}")
    run.log_metrics(dataset_metrics(dataset))
    log_contact_sheet(dataset, run, Path(name).name)
    return dataset


def dataset_metrics(dataset: FaceDataset) -> dict[str, float]:
    """Counts of a dataset's manifest by `<folder name>/<count>`, as they are logged in MLflow."""
    name = Path(dataset.folder.uri).name
    return {f"{name}/{count.replace(':', '/')}": number for count, number in dataset.manifest.counts.items()}


def log_contact_sheet(dataset: FaceDataset, run: Run, name: str, rows: int = 12, columns: int = 8) -> None:
    """Draw the first identities, one per row, into the MLflow run and the dataset's folder if that is local."""
    from facelib.plots.contact_sheet import contact_sheet

    table = next((t for t in dataset.tables(["image", "identity"]) if len(t)), None)
    if table is None:
        return  # Every image was rejected; the counts give the reasons.
    identities = table["identity"].to_numpy()
    grid = []
    for identity in np.unique(identities)[:rows]:
        images = table["image"].filter(pa.array(identities == identity)).slice(0, columns).to_pylist()
        grid.append([decode_image(data) for data in images])
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"contact_sheet_{name}.png"
        contact_sheet(grid, path, title=f"{name}: one identity per row")
        run.log_file(path, "plots")
        if "://" not in dataset.folder.uri:
            Folder(dataset.folder.uri).write("contact_sheet.png", path.read_bytes())
