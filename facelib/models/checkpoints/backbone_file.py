"""Backbone files: ours, and the published formats, read without running anything they contain.

Ours is one `torch.save` of a plain dictionary (it loads with weights_only=True): `format`, `version`, `name` and
`settings` of the architecture, `state_dict`, and `image_spec`: what the images it was trained on look like (template,
size, color order, pixel normalization), so that evaluation can refuse images of another kind.

A state of a training, from which it resumes, has the network under the names of its method (`network_entry`): the
weights are in `method`, behind a prefix.

Those of other codebases are in `published`.
"""

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facelib.data.storage import local_copy
from facelib.models.checkpoints.checkpoint import BackboneCheckpoint, CheckpointError
from facelib.models.checkpoints.published import read_published
from facelib.models.checkpoints.safetensors_file import is_safetensors, read_safetensors
from facelib.models.checkpoints.torch_archive import read_torch_archive
from facelib.models.pixels import NORMALIZATIONS, SYMMETRIC
from facelib.models.registry import build_backbone, shapes_only

FORMAT = "facelib.backbone"
VERSION = 1
NETWORK = "network"  # key of a training's state


def load_backbone(path: str | os.PathLike[str]) -> nn.Module:
    """The network of a file of any known format, a path or a URI, on the CPU, in evaluation mode.

    It takes the pixels it was trained on: its attribute `normalization` names them (None: the file does not say).
    `facelib.embedding.load_face_model` gives a network that takes images in [-1, 1].

    Raises:
        FileNotFoundError: no such file.
        UnsafeCheckpointError: the file asks to run code.
        CheckpointError: not a known format, or parameters are missing, surplus or of another shape (all are listed).
    """
    return backbone_of(read_checkpoint(path), path)


def backbone_of(checkpoint: BackboneCheckpoint, path: str | os.PathLike[str]) -> nn.Module:
    """The network of a checkpoint that was read from `path`, as `load_backbone` returns it."""
    backbone = build_backbone(checkpoint.name, **checkpoint.settings)
    _check_parameters(os.fspath(path), checkpoint, backbone)
    backbone.load_state_dict(checkpoint.state_dict, strict=False)
    backbone.normalization = checkpoint.normalization  # type: ignore[assignment]
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
        image_spec: JSON values; template, size, color order and normalization of the images. The normalization may
            be left out: it is then the one that `backbone` was loaded with, or images in [-1, 1].

    Raises:
        CheckpointError: `backbone` does not have the parameters of build_backbone(name, **settings).
        ValueError: settings or image_spec hold something JSON cannot, or name another normalization than `backbone`.
    """
    path = Path(path)
    image_spec = _with_normalization(image_spec, getattr(backbone, "normalization", None))
    state = {key: value.detach().cpu().contiguous() for key, value in backbone.state_dict().items()}
    stored = BackboneCheckpoint(
        FORMAT, name, _json_values("settings", settings), state, _json_values("image_spec", image_spec)
    )
    with shapes_only():
        _check_parameters(str(path), stored, build_backbone(name, **stored.settings))
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


def network_entry(
    prefix: str, name: str, settings: Mapping[str, Any], image_spec: Mapping[str, Any], normalization: str
) -> dict[str, Any]:
    """What a training's state says of its network, so that `read_checkpoint` can read it.

    Args:
        prefix: of the network's names in the state_dict of the method, with the dot.

    Returns:
        {"network": {...}}, to be merged into the state.
    """
    spec = _with_normalization(image_spec, normalization)
    return {
        NETWORK: {
            "format": FORMAT,
            "version": VERSION,
            "prefix": prefix,
            "name": name,
            "settings": _json_values("settings", settings),
            "image_spec": _json_values("image_spec", spec),
        }
    }


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
    content = read_content(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors")
    if content.get("format") == FORMAT:
        return _read_own(path, content)
    if isinstance(network := content.get(NETWORK), dict) and network.get("format") == FORMAT:
        prefix, tensors = network["prefix"], content["method"]
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        return _read_own(path, {**network, "state_dict": own})
    return read_published(str(path), content)


def read_content(path: Path) -> object:
    """What the file holds: tensors and plain values, pickled modules as `InertObject`s."""
    if is_safetensors(path):
        return read_safetensors(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OSError,
    ):
        _refuse_incomplete(path)
        # Not plain tensors: either UNPG's pickled modules, or something that read_torch_archive refuses by name.
        return read_torch_archive(path)


def _refuse_incomplete(path: Path) -> None:
    """Explain a file that cannot be read because it is not what somebody downloaded or copied."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64).lstrip().lower()
    if head.startswith(b"pk\x03\x04") and not zipfile.is_zipfile(path):
        what = f"the file is cut off after {size} bytes, by an incomplete download or copy"
    elif head.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "a web page, not a checkpoint: the download was refused or needs a confirmation"
    elif head.startswith(b"version https://git-lfs"):
        what = "a pointer of Git LFS, not the checkpoint itself (git lfs pull)"
    elif not size:
        what = "the file is empty"
    else:
        return
    raise CheckpointError(f"{path}: {what}; download or copy it again")


def _read_own(path: Path, content: dict[str, Any]) -> BackboneCheckpoint:
    if content.get("version") != VERSION:
        raise CheckpointError(f"{path}: version {content.get('version')!r} of {FORMAT}, this library reads {VERSION}")
    kinds = {"name": str, "settings": dict, "image_spec": dict, "state_dict": dict}
    content.setdefault("image_spec", content.get("contract"))  # its name in files of 2026
    for field, kind in kinds.items():
        if not isinstance(content.get(field), kind):
            raise CheckpointError(f"{path}: field {field!r} is missing or no {kind.__name__}; the file is damaged")
    # Files from before there was a choice do not state it.
    stated = content["image_spec"].get("normalization", SYMMETRIC)
    normalization = stated if isinstance(stated, str) and stated in NORMALIZATIONS else None
    return BackboneCheckpoint(FORMAT, **{field: content[field] for field in kinds}, normalization=normalization)


def _with_normalization(image_spec: Mapping[str, Any], trained: str | None) -> Mapping[str, Any]:
    """The image spec, with the normalization that a network was loaded or trained with unless it is [-1, 1]."""
    stated = image_spec.get("normalization", trained)
    if trained is not None and stated != trained:
        raise ValueError(f"image_spec: normalization {stated!r}, but the backbone was trained with {trained!r}")
    return image_spec if trained in (None, SYMMETRIC) else {**image_spec, "normalization": trained}


def _check_parameters(path: str, checkpoint: BackboneCheckpoint, backbone: nn.Module) -> None:
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
