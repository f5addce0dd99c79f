"""Label-free training: MoCo on synthetic identities (USynthFace, arXiv 2211.07371).

Reads <output>/faces, selects the best epoch on <output>/heldout, writes <output>/ssl/model.pt. After an interruption
the same command continues.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.tracking import Run


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check settings, datasets and the output folder before anything starts.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: a dataset is missing, or the output folder is in use or was made with other settings.
    """
    from ray_jobs.validation import check_training_output

    check_settings(settings, upcoming)
    check_training_output(settings, "ssl", upcoming)


def check_settings(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check network, augmentation, validation sets and MoCo's settings without looking for datasets.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    from torch import nn

    from facelib.contrastive import MoCo
    from ray_jobs.validation import check_faces, check_options, check_training, checked_field

    check_training(settings, upcoming)
    if settings.data.stream:
        check_faces(settings, settings.train.epochs)
    ssl = settings.ssl
    check_options("ssl.options", ssl.options, MoCo)
    with checked_field("ssl.options"):
        own = {name: getattr(ssl, name) for name in ("momentum", "temperature", "margin", "queue_policy")}
        MoCo(nn.Identity(), embedding_size=2, queue_size=2, seed=0, **own, **ssl.options)
    batch = settings.train.batch_size * settings.train.workers
    if settings.ssl.queue_size < batch:
        raise SettingsError(
            f"ssl.queue_size: {settings.ssl.queue_size} keys cannot hold one global batch of {batch} "
            "(train.batch_size x train.workers)"
        )


@job
def train_ssl(settings: Settings, run: "Run") -> JobResult:
    """Train with MoCo; the result's history has one row per epoch."""
    from ray_jobs.training.driver import train

    return train(settings, run, "ssl")


if __name__ == "__main__":
    main(train_ssl)
