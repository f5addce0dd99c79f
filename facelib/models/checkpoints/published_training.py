"""Where a training of another codebase stopped, so that it can go on: more than the backbone that evaluation needs.

| layout | file | holds |
|---|---|---|
| USynthFace | state_dict of MoCo, `checkpoint_<epochs>.pth` | both encoders, queue, pointer; no optimizer |
| MoCo | `epoch`, `state_dict` (`module.encoder_q.*`, …), `optimizer` | the same, and the optimizer's momentum |
| UNPG | `epoch`, `backbone` and `headandloss` (pickled modules), `optimizer` | backbone, class weights, momentum |

Shapes: C classes, D embedding, K queue.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from facelib.data.storage import local_copy
from facelib.models.checkpoints.backbone_file import read_content
from facelib.models.checkpoints.checkpoint import BackboneCheckpoint, CheckpointError
from facelib.models.checkpoints.published import read_published, state_dicts
from facelib.models.checkpoints.torch_archive import InertObject, module_state_dict

BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "queue", "queue_ptr")  # not the optimizer's
FROZEN = "features.weight"  # which USynthFace does not train


@dataclass(frozen=True)
class PublishedTraining:
    """The state of a published training.

    Attributes:
        backbone: the network that is trained.
        tensors: `backbone.*`; of MoCo `key_encoder.*`, `queue` [D, K] and `queue_pointer`; of UNPG `class_weights`
            [C, D].
        momentum: of SGD, under the names of parameters in `tensors`; empty: the file has none.
        epochs: that were trained; None: neither the file nor its name says.
        head: UNPG's margin head, `arcface`, `cosface` or `magface`; empty: there is none, or it is not named.
    """

    backbone: BackboneCheckpoint
    tensors: dict[str, Tensor]
    momentum: dict[str, Tensor] = field(default_factory=dict)
    epochs: int | None = None
    head: str = ""


def read_published_training(path: str | os.PathLike[str]) -> PublishedTraining:
    """Read a file, a path or a URI, without running anything that it contains.

    Raises:
        FileNotFoundError, UnsafeCheckpointError: as `facelib.models.load_backbone`.
        CheckpointError: it holds no training: neither MoCo's queue and key encoder nor UNPG's head; or its optimizer
            state does not fit its parameters.
    """
    with local_copy(path) as local:
        if not local.is_file():
            raise FileNotFoundError(f"checkpoint {path} does not exist")
        content = read_content(local)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary")
    backbone = read_published(str(path), content)
    tensors = {f"backbone.{name}": value for name, value in backbone.state_dict.items()}
    if backbone.format == "usynthface":
        return _read_moco(str(path), content, backbone, tensors)
    if content.get("headandloss") is not None:
        return _read_unpg(str(path), content, backbone, tensors)
    raise CheckpointError(
        f"{path}: holds a backbone only ({backbone.format}), neither MoCo's queue and key encoder nor UNPG's head: "
        "model.init_from starts a training from a backbone"
    )


def _read_moco(
    path: str, content: Mapping[str, Any], backbone: BackboneCheckpoint, tensors: dict[str, Tensor]
) -> PublishedTraining:
    state = next(state for state in state_dicts(content) if any("encoder_q." in name for name in state))
    prefix = next(name for name in state if "encoder_q." in name).partition("encoder_q.")[0]
    own = {name.removeprefix(prefix): value for name, value in state.items()}
    absent = [name for name in ("queue", "queue_ptr") if name not in own]
    absent += [name for name in (f"encoder_k.{key}" for key in backbone.state_dict) if name not in own]
    if absent:
        raise CheckpointError(
            f"{path}: MoCo's state is incomplete, {len(absent)} tensors are missing: {', '.join(absent[:4])}; "
            "model.init_from starts a training from the backbone alone"
        )
    names = {f"encoder_{side}.{key}": f"{ours}.{key}" for side, ours in (("q", "backbone"), ("k", "key_encoder"))
             for key in backbone.state_dict}  # fmt: skip
    for theirs, ours in {**names, "queue": "queue"}.items():
        tensors[ours] = own[theirs].float() if own[theirs].is_floating_point() else own[theirs]
    tensors["queue_pointer"] = own["queue_ptr"].reshape(())
    trained = [names[name] for name in own if name in names and _is_parameter(name)]
    momentum = _momentum(path, content.get("optimizer"), trained, tensors)
    return PublishedTraining(backbone, tensors, momentum, _epochs(path, content, before=0))


def _read_unpg(
    path: str, content: Mapping[str, Any], backbone: BackboneCheckpoint, tensors: dict[str, Tensor]
) -> PublishedTraining:
    module = content["headandloss"]
    head = module_state_dict(module) if isinstance(module, InertObject) else dict(module)
    # DataParallel leaves `module.`; MagFace's weights are [D, C], in a layer of their own.
    found = {name.replace("module.", ""): value.float() for name, value in head.items() if isinstance(value, Tensor)}
    weights = [name for name in found if name in ("head.weight", "head.fc.weight")]
    if len(weights) != 1:
        raise CheckpointError(f"{path}: headandloss has no class weights: found {', '.join(found) or 'no tensors'}")
    transposed = weights[0] == "head.fc.weight"
    tensors["class_weights"] = found[weights[0]].T if transposed else found[weights[0]]
    # A file's dictionary of tensors has buffers among them, which the optimizer does not number.
    trained = [name for name in tensors if _is_parameter(name)]
    as_stored = {**tensors, "class_weights": found[weights[0]]}
    momentum = _momentum(path, content.get("optimizer"), trained, as_stored)
    if transposed and momentum:
        momentum["class_weights"] = momentum["class_weights"].T
    name = module.state.get("head_name", "") if isinstance(module, InertObject) else ""
    return PublishedTraining(backbone, tensors, momentum, _epochs(path, content, before=1), str(name))


def _is_parameter(name: str) -> bool:
    return name.rpartition(".")[2] not in BUFFERS


def _momentum(path: str, optimizer: object, trained: list[str], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Momentum by parameter, from an optimizer's state_dict, which numbers parameters in the order of its groups."""
    if not isinstance(optimizer, Mapping) or not optimizer.get("state"):
        return {}
    order = [number for group in optimizer["param_groups"] for number in group["params"]]
    stored = {number: entry.get("momentum_buffer") for number, entry in optimizer["state"].items()}
    for names in _numberings(trained):
        found = {name: stored[number] for name, number in zip(names, order) if stored.get(number) is not None}
        if len(names) == len(order) and all(found[name].shape == tensors[name].shape for name in found):
            return {name: value.float() for name, value in found.items()}
    raise CheckpointError(
        f"{path}: its optimizer state, of {len(order)} parameters, does not fit its {len(trained)} parameters"
    )


def _numberings(trained: list[str]) -> Iterator[list[str]]:
    """What an optimizer may have been given: all parameters, those of the query encoder, or only trained ones."""
    queries = [name for name in trained if not name.startswith("key_encoder.")]
    yield trained
    yield queries
    yield [name for name in queries if not name.endswith(FROZEN)]


def _epochs(path: str, content: Mapping[str, Any], before: int) -> int | None:
    """Epochs that were trained: `epoch` of the file plus `before`, or the number in the file's name."""
    if isinstance(content.get("epoch"), int):
        return int(content["epoch"]) + before
    number = re.search(r"checkpoint_(\d+)\.", Path(path).name)
    return int(number[1]) if number else None
