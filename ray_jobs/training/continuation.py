"""Going on with a published training (`train.continue_from`): its weights, MoCo's queue and key encoder or UNPG's head,
and its optimizer's momentum become the state that a checkpoint of this project would have.

Without momentum in the file (USynthFace's have none) it starts at zero, as the original's resumed trainings did.
"""

from typing import Any

import torch

from facelib.config import Settings
from facelib.models import PublishedTraining, read_published_training, shapes_only
from ray_jobs.errors import JobError
from ray_jobs.training.methods import new_backbone

FIELD = "train.continue_from"


def read_continuation(settings: Settings, method: str, classes: int | None = None) -> PublishedTraining:
    """The published training that the settings name, checked against them.

    Args:
        method: `ssl` or `unpg`.
        classes: C of the training faces; None: not known yet.

    Raises:
        JobError: names the setting that does not fit, the value in the file and the one in the settings.
        CheckpointError, FileNotFoundError: the file holds no training, or cannot be read.
    """
    path = settings.path(settings.train.continue_from)
    training = read_published_training(path)
    _check_backbone(path, training, settings)
    train, tensors = settings.train, training.tensors
    needed = {"ssl": "queue", "unpg": "class_weights"}[method]
    if needed not in tensors:
        raise JobError(f"{FIELD}: {path} is a training of the other kind, it has no {needed.replace('_', ' ')}")
    pairs: list[tuple[str, Any, Any]] = [
        ("model.embedding_size", training.backbone.settings["embedding_size"], settings.model.embedding_size)
    ]
    if method == "ssl":
        width = settings.ssl.options.get("projection_size") or settings.model.embedding_size
        pairs += [("ssl.queue_size", tensors["queue"].shape[1], settings.ssl.queue_size)]
        pairs += [("ssl.options: projection_size", tensors["queue"].shape[0], width)]
    else:
        pairs += [("number of classes", len(tensors["class_weights"]), classes or len(tensors["class_weights"]))]
        pairs += [("unpg.head", training.head or settings.unpg.head, settings.unpg.head)]
    pairs += [("train.optimizer", "sgd" if training.momentum else train.optimizer, train.optimizer)]
    for name, stored, wanted in pairs:
        if stored != wanted:
            raise JobError(f"{FIELD}: {path} was trained with {name} {stored}, here it is {wanted}")
    epochs = trained_epochs(training, settings)
    if epochs >= train.epochs:
        raise JobError(
            f"{FIELD}: {path} was trained for {epochs} epochs, and train.epochs is {train.epochs}: raise it, or start "
            "its schedule again with train.continue_epoch=0"
        )
    return training


def _check_backbone(path: str, training: PublishedTraining, settings: Settings) -> None:
    with shapes_only():
        expected = new_backbone(settings.model).state_dict()
    stored = training.backbone.state_dict
    wrong = list(stored.keys() - expected.keys())
    wrong += [name for name in expected.keys() - stored.keys() if not name.endswith("num_batches_tracked")]
    wrong += [name for name in expected.keys() & stored.keys() if stored[name].shape != expected[name].shape]
    if wrong:
        raise JobError(
            f"{FIELD}: {path} holds {training.backbone.name} {training.backbone.settings}, which does not fit "
            f"model.name={settings.model.name}, model.embedding_size={settings.model.embedding_size} and model.options "
            f"{settings.model.options}: {len(wrong)} tensors differ, {', '.join(sorted(wrong)[:3])}"
        )


def trained_epochs(training: PublishedTraining, settings: Settings) -> int:
    """Epochs after which the training goes on.

    Raises:
        JobError: neither the file nor the settings say.
    """
    given = settings.train.continue_epoch
    if given is None and training.epochs is None:
        raise JobError(
            f"{FIELD}: neither {settings.train.continue_from} nor its name says how many epochs it was trained: set "
            "train.continue_epoch"
        )
    return training.epochs if given is None and training.epochs is not None else int(given or 0)


def continued_state(
    training: PublishedTraining, method: Any, optimizer: torch.optim.Optimizer, step: int
) -> dict[str, Any]:
    """States as `gather_state` returns them, for `load_state`.

    Args:
        method: with `published_names`, the prefixes of the file's tensors in its state_dict.
        step: at which the training goes on.
    """
    state = {name: torch.tensor(step) if name.endswith(".steps") else value
             for name, value in method.state_dict().items()}  # fmt: skip
    found = {_own_name(name, method): value for name, value in training.tensors.items()}
    state |= {name: value.to(state[name].dtype) for name, value in found.items() if name in state}
    if "moco.queue_filled" in state:  # all but the first trainings' seconds
        state["moco.queue_filled"] = torch.tensor(found["moco.queue"].shape[1])
    momentum = {_own_name(name, method): value for name, value in training.momentum.items()}
    stored: dict[int, dict[str, torch.Tensor]] = {}
    names = {parameter: name for name, parameter in method.named_parameters()}
    ordered = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, parameter in enumerate(ordered if momentum else []):
        name = names[parameter]
        stored[index] = {"momentum_buffer": momentum.get(name, torch.zeros_like(state[name], device="cpu"))}
    groups = optimizer.state_dict()["param_groups"]
    return {"method": state, "optimizer": {"state": stored, "param_groups": groups}}


def _own_name(name: str, method: Any) -> str:
    for theirs, ours in method.published_names:
        if name.startswith(theirs):
            return f"{ours}{name.removeprefix(theirs)}"
    return name
