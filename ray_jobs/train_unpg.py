"""Supervised training: a margin head and unified negative pairs on synthetic identities (UNPG, arXiv 2203.11593).

Reads <output>/faces, chooses the best epoch on <output>/heldout, writes <output>/unpg/model.pt. Run it again after an
interruption and it continues.
"""

from facelib.config import Settings
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.training.driver import train


def train_unpg(settings: Settings, run: Run) -> str:
    """Train with a margin head, with or without UNPG."""
    return train(settings, run, "unpg")


if __name__ == "__main__":
    run_job("train_unpg", train_unpg, __doc__)
