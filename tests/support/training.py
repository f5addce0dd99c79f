"""The smallest training: flags of its jobs, and datasets that it takes."""

import json
from pathlib import Path

from support.datasets import write_dataset
from support.models import TINY

TINY_TRAINING = (
    "--model.name", "iresnet", "--model.options", json.dumps({k: v for k, v in TINY.items() if k != "embedding_size"}),
    "--model.embedding_size", TINY["embedding_size"], "--train.precision", "float32", "--train.threads", 1,
    "--train.learning_rate", 0.1, "--evaluate.pairs", 40, "--ssl.queue_size", 24, "--data.window_row_groups", 2,
    "--tracking.system_metrics", "false",
)  # fmt: skip


def datasets(folder: Path) -> tuple[str | Path, ...]:
    """Write a training dataset of 48 identities and a held-out one; returns the flags that name them."""
    write_dataset(folder / "faces", identities=48, images=3, per_part=16, per_group=4)
    write_dataset(folder / "heldout", identities=8, images=3, first=1000)
    return ("--data.dataset", folder / "faces", "--data.heldout", folder / "heldout")
