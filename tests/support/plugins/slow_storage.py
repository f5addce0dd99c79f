"""A training on a storage that takes until its steps are done."""

import json
import time
from pathlib import Path

import torch

from ray_jobs.training import context as context_module
from ray_jobs.training.checkpoint import snapshot, store_state
from ray_jobs.training.context import RayTrainContext

GO, SECONDS = "go", 120.0  # the file that the storage waits for, and for how long


def train_on_slow_storage(config):
    """One rank: reports a state, changes its weights, reports twice without one, and only then lets it be stored."""
    folder = Path(config["folder"])
    stored_before = []

    def slow(fs, directory, state):
        deadline = time.monotonic() + SECONDS
        while not (folder / GO).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        stored_before.append(not (folder / GO).exists())
        store_state(fs, directory, state)

    context_module.store_state = slow
    context = RayTrainContext()
    weights = torch.ones(1000)
    storing = [context.storing]
    context.report({"step": 1}, snapshot({"step": 1, "weights": weights}) if context.rank == 0 else None)
    storing.append(context.storing)
    for step in (2, 3):
        weights.zero_()
        context.report({"step": step})
        storing.append(context.storing)
    if context.rank == 0:
        told = {"storing": storing, "stored before": any(stored_before)}
        (folder / "told.json").write_text(json.dumps(told))
        (folder / GO).touch()
