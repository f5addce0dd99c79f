"""Supervised training: margin softmax with unified negative pairs on synthetic identities (UNPG, arXiv 2203.11593).

Reads <output>/faces, selects the best epoch on <output>/heldout, writes <output>/unpg/model.pt. After an interruption
the same command continues.
"""

import importlib.util
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
    check_training_output(settings, "unpg", upcoming)


def check_settings(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check network, augmentation, validation sets and the margin head without looking for datasets.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
    from ray_jobs.training.methods import HEADS, head_options
    from ray_jobs.validation import check_faces, check_options, check_training, checked_field

    check_training(settings, upcoming)
    if settings.data.stream and check_faces(settings, 1) is not None:
        raise SettingsError(
            f"data.stream: generator {settings.generate.generator_name} has a limited number of identities and images, "
            "and every epoch would need new images of them; make a dataset with ray_jobs.generate"
        )
    unpg = settings.unpg
    check_options("unpg.options", unpg.options, HEADS[unpg.head])
    with checked_field("unpg.scale, unpg.margin, unpg.options"):
        HEADS[unpg.head](embedding_size=2, num_classes=2, **head_options(unpg))
    if (unpg.triplet or unpg.contrastive) and importlib.util.find_spec("pytorch_metric_learning") is None:
        raise SettingsError("unpg.triplet, unpg.contrastive: pip install 'facelib[metric-learning]'")


@job
def train_unpg(settings: Settings, run: "Run") -> JobResult:
    """Train with a margin head, with or without UNPG; the result's history has one row per epoch."""
    from ray_jobs.training.driver import train

    return train(settings, run, "unpg")


if __name__ == "__main__":
    main(train_unpg)
