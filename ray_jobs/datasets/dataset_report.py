"""What is shown of a finished face dataset: a line of counts, its manifest and metrics in MLflow, a contact sheet."""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from facelib.config import Settings
from facelib.data import MANIFEST_NAME, FaceDataset, Folder, decode_image
from facelib.evaluation.protocols import SetSpec, parse_spec
from facelib.tracking import Run
from facelib.utils.wording import counted


def report_dataset(folder: Folder, name: str, run: Run) -> FaceDataset:
    """Open and check a finished dataset, print its license and counts, and log manifest, metrics and contact sheet.

    Raises:
        DatasetError: a part is missing or does not match the manifest.
    """
    dataset = FaceDataset(folder.uri)
    dataset.check_parts()
    counts = dataset.manifest.counts
    if license_text := dataset.manifest.spec.get("generator_licence"):
        print(f"{name}: faces of {dataset.manifest.spec['generator']}, license: {license_text}")
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


def log_training_sets(settings: Settings, run: Run) -> None:
    """Log which datasets a training reads, and which sets validate it."""
    data = settings.data
    if not data.stream:
        log_dataset(run, FaceDataset(settings.path(data.dataset)), "train")
    if settings.train.selection == "heldout":
        log_dataset(run, FaceDataset(settings.path(data.heldout)), "validation")
    for text in settings.train.sets:
        log_set(run, parse_spec(text), "validation")


def log_dataset(run: Run, dataset: FaceDataset, role: str, name: str = "") -> None:
    """Log a face dataset as input of a run; its digest is that of the manifest, which has the parts' checksums.

    Args:
        name: of the dataset; by default that of its folder.
    """
    manifest = dataset.manifest
    digest = hashlib.sha256(dataset.folder.read(MANIFEST_NAME)).hexdigest()
    counts = {"images": manifest.images, "identities": manifest.identities}
    run.log_dataset(name or Path(dataset.folder.path).name, dataset.folder.uri, digest, role, **counts)


def log_set(run: Run, spec: SetSpec, role: str, faces: int = 0) -> None:
    """Log an evaluation set as input of a run: a face dataset, or files, whose digest is of their names and sizes."""
    if len(spec.files) == 1 and Folder(spec.files[0]).exists(MANIFEST_NAME):
        log_dataset(run, FaceDataset(spec.files[0]), role, spec.name)
        return
    sizes: dict[str, int] = {}
    for path in map(Path, spec.files):
        files = [file for file in sorted(path.rglob("*")) if file.is_file()] if path.is_dir() else [path]
        sizes |= {str(file): file.stat().st_size for file in files if file.exists()}
    digest = hashlib.sha256(repr((spec.path, sizes)).encode()).hexdigest()
    run.log_dataset(spec.name, spec.path, digest, role, **({"images": faces} if faces else {}))


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
