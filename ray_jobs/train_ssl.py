"""Label-free training: MoCo on synthetic identities (USynthFace, arXiv 2211.07371).

Reads <output>/faces, chooses the best epoch on <output>/heldout, writes <output>/ssl/model.pt. Run it again after an
interruption and it continues.
"""

from facelib.config import Settings
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.training.driver import train


def train_ssl(settings: Settings, run: Run) -> str:
    """Train with MoCo."""
    return train(settings, run, "ssl")


if __name__ == "__main__":
    run_job("train_ssl", train_ssl, __doc__)
