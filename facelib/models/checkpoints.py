"""Backbone files: ours, and the three published formats, read without running anything they contain.

Ours is one `torch.save` of a plain dictionary (it loads with weights_only=True): `format`, `version`, `name` and
`settings` of the architecture, `state_dict`, and `image_spec`: what the images it was trained on look like (template,
size, color order, normalization), so that evaluation can refuse images of another kind.

Published: USynthFace `checkpoint_NNN.pth` (state_dict of MoCo, the query encoder is `encoder_q.*`), UNPG `.pt` (the
whole module pickled under `backbone`), arcface_torch `.pth` (plain state_dict). Their architecture is read off the
shapes.
"""

import json
import math
import os
import pickle
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facelib.data.storage import local_copy
from facelib.models.iresnet import REDUCTION, STAGE_CHANNELS
from facelib.models.registry import build_backbone
from facelib.models.torch_archive import InertObject, module_state_dict, read_torch_archive

FORMAT = "facelib.backbone"
VERSION = 1


class CheckpointError(ValueError):
    """The file is no backbone this library knows, or does not fit the architecture it claims."""


@dataclass(frozen=True)
class BackboneCheckpoint:
    """What a backbone file holds. `image_spec` is None for published formats: they do not say what they trained on."""

    format: str
    name: str
    settings: dict[str, Any]
    state_dict: dict[str, Tensor]
    image_spec: dict[str, Any] | None


def load_backbone(path: str | os.PathLike[str]) -> nn.Module:
    """The network of a file of any known format, a path or a URI, on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run code.
        CheckpointError: not a known format, or parameters are missing, surplus or of another shape (all are listed).
    """
    checkpoint = read_checkpoint(path)
    backbone = build_backbone(checkpoint.name, **checkpoint.settings)
    _check_parameters(Path(path), checkpoint, backbone)
    backbone.load_state_dict(checkpoint.state_dict, strict=False)
    return backbone.eval()


def save_backbone(
    path: str | os.PathLike[str],
    backbone: nn.Module,
    name: str,
    settings: Mapping[str, Any],
    image_spec: Mapping[str, Any],
) -> None:
    """Write `backbone = build_backbone(name, **settings)` with the image spec of its training images, all or nothing.

    Args:
        image_spec: JSON values; template, size, color order and normalization of the images.

    Raises:
        CheckpointError: `backbone` does not have the parameters of build_backbone(name, **settings).
        ValueError: settings or image_spec hold something JSON cannot.
    """
    path = Path(path)
    state = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    stored = BackboneCheckpoint(
        FORMAT, name, _json_values("settings", settings), state, _json_values("image_spec", image_spec)
    )
    with torch.device("meta"):
        _check_parameters(path, stored, build_backbone(name, **stored.settings))
    content = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "settings": stored.settings,
        "image_spec": stored.image_spec,
        "state_dict": state,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint_image_spec(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The contract of the images that a backbone file was trained on; None for formats that carry none.

    Raises: as `load_backbone`.
    """
    return read_checkpoint(path).image_spec


def read_checkpoint(path: str | os.PathLike[str]) -> BackboneCheckpoint:
    """Architecture, tensors and image spec of a file of any format, a path or URI (raises as `load_backbone`)."""
    with local_copy(path) as local:
        return _read_local(local)


def _read_local(path: Path) -> BackboneCheckpoint:
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
    ):
        # Not plain tensors: either UNPG's pickled modules, or something that read_torch_archive refuses by name.
        content = read_torch_archive(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    if content.get("format") == FORMAT:
        return _read_own(path, content)
    file_format, state = _foreign_state(path, content)
    return BackboneCheckpoint(file_format, "iresnet", _infer_settings(path, state), state, None)


def _read_own(path: Path, content: dict[str, Any]) -> BackboneCheckpoint:
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path}: version {content.get('version')!r} of {FORMAT}, this library reads {VERSION}")
    kinds = {"name": str, "settings": dict, "image_spec": dict, "state_dict": dict}
    content.setdefault("image_spec", content.get("contract"))  # its name in files of 2026
    for field, kind in kinds.items():
        if not isinstance(content.get(field), kind):
            raise CheckpointError(f"{path}: field {field!r} is missing or no {kind.__name__}; the file is damaged")
    return BackboneCheckpoint(FORMAT, **{field: content[field] for field in kinds})


def _foreign_state(path: Path, content: dict[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """The backbone's tensors, named as in IResNet, and which published format they came in."""
    file_format = "arcface_torch"
    backbone = content.get("backbone")
    if isinstance(backbone, InertObject):
        file_format, content = "unpg", module_state_dict(backbone)
    elif isinstance(backbone, dict):
        content = backbone
    elif isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    state = {str(name).removeprefix("module."): value for name, value in content.items() if isinstance(value, Tensor)}
    query = {name.removeprefix("encoder_q."): value for name, value in state.items() if name.startswith("encoder_q.")}
    if query:
        return "usynthface", query
    if not state:
        raise CheckpointError(
            f"{path}: no tensors found under {sorted(map(str, content))[:8]}; known formats: facelib, USynthFace .pth, "
            f"UNPG .pt, arcface_torch .pth"
        )
    return file_format, state


def _infer_settings(path: Path, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings of the IResNet that has these parameters."""
    needed = ("conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight", "features.weight")
    absent = [name for name in needed if name not in state]
    if absent:
        raise CheckpointError(
            f"{path}: no IResNet, parameters {', '.join(absent)} are missing; found {', '.join(list(state)[:6])} ..."
        )
    blocks = [re.match(r"layer([1-4])\.(\d+)\.", name) for name in state]
    layers = [
        max((int(found[2]) + 1 for found in blocks if found and found[1] == stage), default=0) for stage in "1234"
    ]
    width = state["conv1.weight"].shape[0] / STAGE_CHANNELS[0]
    embedding_size, inputs = state["fc.weight"].shape
    side = math.isqrt(inputs // max(1, state["layer4.0.conv1.weight"].shape[0]))
    use_se = any(".se_block." in name for name in state)
    if 0 in layers or side == 0 or state["conv1.weight"].shape[0] < (REDUCTION if use_se else 1):
        raise CheckpointError(f"{path}: no IResNet has layers {layers} and a last layer of {inputs} inputs")
    settings: dict[str, Any] = {"embedding_size": int(embedding_size), "use_se": use_se, "layers": layers}
    if width != 1:
        settings["width"] = width
    if side != 7:
        settings["image_size"] = 16 * side
    return settings


def _check_parameters(path: Path, checkpoint: BackboneCheckpoint, backbone: nn.Module) -> None:
    expected = backbone.state_dict()
    # Counters of seen batches play no role without cumulative averages, and files older than torch 0.4.1 lack them.
    missing = [n for n in expected if n not in checkpoint.state_dict and not n.endswith("num_batches_tracked")]
    surplus = [n for n in checkpoint.state_dict if n not in expected]
    shapes = [
        f"{n} {list(checkpoint.state_dict[n].shape)} instead of {list(expected[n].shape)}"
        for n in expected
        if n in checkpoint.state_dict and checkpoint.state_dict[n].shape != expected[n].shape
    ]
    if missing or surplus or shapes:
        parts = [("missing", missing), ("surplus", surplus), ("of another shape", shapes)]
        problems = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in parts if names)
        architecture = f"{checkpoint.name} {checkpoint.settings}"
        raise CheckpointError(f"{path}: parameters do not fit {architecture}: {problems}")


def _json_values(field: str, values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(values), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{field} = {values!r}: only JSON values can be saved ({error})") from error
    return copy
