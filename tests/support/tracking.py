"""Tracking stores that are there at once: MLflow takes a second to make a new database."""

import functools
import tempfile
from pathlib import Path

from facelib.tracking.store import mlflow_client


def new_store(folder: Path) -> str:
    """The URI of the sqlite store in a folder; a database without runs is put there if there is none."""
    path = Path(folder) / "mlflow.db"
    if not path.exists():
        path.write_bytes(_empty_database())
    return f"sqlite:///{path}"


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        mlflow_client(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()
