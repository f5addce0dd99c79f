"""A sweep of tiny trainings, as a job on the tests' cluster."""

from pathlib import Path

import yaml

from facelib.config import load_settings
from facelib.tracking import Run
from facelib.tuning.trials import TrialStore
from ray_jobs import tune as tune_job
from ray_jobs.tune import tune
from support.datasets import write_dataset
from support.tracking import new_store

TINY = {
    "name": "sweep",
    "model": {
        "name": "iresnet", "embedding_size": 16,
        "options": {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2},
    },
    "ssl": {"queue_size": 24},
    "train": {
        "epochs": 3, "batch_size": 8, "learning_rate": 0.1, "precision": "float32", "threads": 1,
        "cpus_per_worker": 0.5, "max_failures": 1,
    },
    "data": {"window_row_groups": 2, "readers": 1},
    "evaluate": {"pairs": 40},
    "tracking": {"system_metrics": False},
    "tune": {
        "space": {"ssl.queue_size": {"grid": [16, 32]}, "augment.strength": {"uniform": [0.0, 1.0]}},
        "trials": 3, "startup_trials": 2, "finalists": 1, "finalist_seeds": 0, "in_process": True,
    },
}  # fmt: skip


def write_faces(folder: Path) -> dict[str, str]:
    """Write a training dataset of 32 identities and a held-out one; settings that name them."""
    write_dataset(folder / "faces", identities=32, images=3, per_part=16, per_group=4)
    write_dataset(folder / "heldout", identities=8, images=3, first=1000)
    return {"dataset": f"{folder}/faces", "heldout": f"{folder}/heldout"}


def config(folder, faces, **changed):
    """A config file with other `tune` settings."""
    tree = {**TINY, "output": f"{folder}/out", "data": {**TINY["data"], **faces}}
    tree["tracking"] = {**TINY["tracking"], "uri": new_store(folder)}
    (folder / "tune.yaml").write_text(yaml.safe_dump({**tree, "tune": {**TINY["tune"], **changed}}))
    return folder / "tune.yaml"


def sweep(path, *overrides):
    """Run the job in this process, on the tests' cluster."""
    settings = load_settings(path, overrides)
    tune_job.validate(settings)
    with Run.open(settings, "tune") as run:
        return tune(settings, run)


def trials(folder):
    return TrialStore(f"{folder}/out/sweep/trials").trials
