"""More epochs for a training than it was begun with: it goes on from its last checkpoint."""

from typing import Any

from facelib.config import Settings
from facelib.data import Folder
from facelib.data.fingerprint import claim_output_dir, smaller_size
from ray_jobs.errors import JobError

EPOCHS = "train.epochs"
INDEPENDENT = ("constant", "step", "plateau")  # schedules that do not depend on the number of epochs


def check_extension(settings: Settings, folder: Folder, spec: dict[str, Any]) -> None:
    """Refuse more epochs than a training was begun with, where what was trained depends on their number.

    Raises:
        JobError: says what to do.
    """
    epochs = smaller_size(folder, spec, EPOCHS)
    dependent = [f"train.schedule={settings.train.schedule}"] * (settings.train.schedule not in INDEPENDENT)
    dependent += ["augment.strength_start"] * (settings.augment.strength_start is not None)
    if epochs is not None and dependent and not settings.train.extend:
        raise JobError(
            f"{folder.uri} was begun with train.epochs={epochs}, now {settings.train.epochs}, and "
            f"{' and '.join(dependent)} depends on their number. Set train.extend=true to go on from epoch {epochs} "
            "with the end of the longer schedule (the learning rate rises again there), or use another output folder"
        )


def claim_training_dir(settings: Settings, folder: Folder, spec: dict[str, Any], model: str) -> None:
    """Claim the folder of a training; one of fewer epochs goes on, and its model is kept under another name.

    Args:
        model: file of a finished training's model.

    Raises:
        JobError, DatasetError: the folder is of other settings.
    """
    check_extension(settings, folder, spec)
    epochs = smaller_size(folder, spec, EPOCHS)
    if epochs is not None and folder.exists(model):
        folder.write(f"model-{epochs}-epochs.pt", folder.read(model))
        print(f"{folder.uri}: going on from epoch {epochs} to {settings.train.epochs}", flush=True)
    claim_output_dir(folder, spec, EPOCHS, model)
