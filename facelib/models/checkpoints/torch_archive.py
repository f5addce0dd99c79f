"""Read the tensors of a pickled torch module without running anything that the file contains.

Format: `torch.save`'s zip archive (torch >= 1.6): `<prefix>/data.pkl` is a pickle whose tensors are persistent ids
of the records `<prefix>/data/<key>`. UNPG saves whole modules this way, so its pickle names classes
(`models.iresnet.IResNet`, `torch.nn.modules.conv.Conv2d`, ...). Here those names lead to inert stand-ins that only
keep their state: nothing is imported, and no constructor or method of a named class runs. Every other name is
refused.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facelib.utils.file_kinds import HEAD_BYTES, describe_content
from facelib.utils.safe_pickle import Name, UnsafePickleError, make_dict, make_set, read_pickle

# Modules whose classes are kept as inert stand-ins. They are never imported, so a prefix is safe.
INERT_MODULES = ("models", "torch.nn.modules", "torch.nn.parallel", "torch.nn.backends", "pytorch_metric_learning")
STORAGE_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
MAX_PICKLE_BYTES = 64 << 20  # without its tensors, the description of even IResNet-200 is below 1 MB


class UnsafeCheckpointError(ValueError):
    """The file asks for something that could run code, or is built to mislead the reader."""


@dataclass(eq=False)
class InertObject:
    """Stands for an object of a class that the file names; `state` is what the file says it holds."""

    class_name: str
    state: dict[str, Any] = field(default_factory=dict)

    def set_state(self, state: Any) -> None:
        """Keep the attributes of the object."""
        self.state = state if isinstance(state, dict) else {}


def read_torch_archive(path: Path) -> object:
    """The pickled object of a torch zip archive, its modules as `InertObject`s and its tensors as tensors on the CPU.

    Raises:
        UnsafeCheckpointError: the pickle names anything but torch modules, tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _Archive(archive, path).load()
    except zipfile.BadZipFile as error:
        with open(path, "rb") as file:
            kind = describe_content(file.read(HEAD_BYTES))
        if kind and not kind.startswith("a zip"):
            raise UnsafeCheckpointError(f"{path}: not a checkpoint, it is {kind}") from error
        raise UnsafeCheckpointError(
            f"{path}: not a torch zip archive, and not readable as plain tensors; save it again as a state_dict"
        ) from error
    except UnsafeCheckpointError:
        raise
    except UnsafePickleError as error:
        advice = "only torch modules and tensors are read. Save the network's state_dict instead"
        raise UnsafeCheckpointError(f"{path}: refused, {error}; {advice}") from error
    except Exception as error:  # a hostile file can fail in any way
        raise UnsafeCheckpointError(
            f"{path}: damaged or hostile checkpoint ({type(error).__name__}: {error})"
        ) from error


def module_state_dict(module: InertObject, prefix: str = "") -> dict[str, Tensor]:
    """The state_dict of a pickled torch module: names -> tensors, in the order of the module's own state_dict.

    Raises:
        UnsafeCheckpointError: what the file calls parameters, buffers or modules are not.
    """
    tensors: dict[str, Tensor] = {}
    transient = module.state.get("_non_persistent_buffers_set", ())
    for kind in ("_parameters", "_buffers"):
        for name, value in _members(module, kind).items():
            if value is None or (kind == "_buffers" and name in transient):
                continue
            if not isinstance(value, Tensor):
                raise UnsafeCheckpointError(f"{prefix}{name} is a {type(value).__name__}, not a tensor")
            tensors[prefix + name] = value
    for name, child in _members(module, "_modules").items():
        if child is None:
            continue
        if not isinstance(child, InertObject) or prefix.count(".") > 64:
            raise UnsafeCheckpointError(f"{prefix}{name} is a {type(child).__name__}, not a module")
        tensors |= module_state_dict(child, f"{prefix}{name}.")
    return tensors


class _Archive:
    """The records of one torch archive."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        entries = [entry for entry in archive.infolist() if entry.filename.split("/", 1)[-1] == "data.pkl"]
        if len(entries) != 1:
            raise UnsafeCheckpointError(f"{path}: {len(entries)} records data.pkl, a torch archive has one")
        self._archive, self._path = archive, path
        self._prefix = entries[0].filename.removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}

    def load(self) -> object:
        return read_pickle(self._record("data.pkl", MAX_PICKLE_BYTES), _resolve_name, persistent_load=self._storage)

    def _storage(self, pid: Any) -> Tensor:
        """The values of a tensor, from ("storage", type, key, device, number of values)."""
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdigit():
            raise UnsafeCheckpointError(f"{self._path}: unknown persistent id")
        if key not in self._storages:
            size = int(count) * dtype.itemsize
            data = self._record(f"data/{key}", size)
            if len(data) != size:
                raise UnsafeCheckpointError(f"{self._path}: record {key} is {len(data)} bytes, {size} declared")
            values = torch.frombuffer(bytearray(data), dtype=dtype) if size else torch.empty(0, dtype=dtype)
            self._storages[key] = values
        return self._storages[key]

    def _record(self, name: str, max_bytes: int) -> bytes:
        entry = self._archive.getinfo(self._prefix + name)
        # torch never compresses; a compressed record could unpack to any size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
            raise UnsafeCheckpointError(f"{self._path}: record {name} is compressed or larger than declared")
        return self._archive.read(entry)


def _resolve_name(module: str, name: str) -> object | None:
    if module == "torch" and name in STORAGE_TYPES:
        return STORAGE_TYPES[name]
    if any(module == inert or module.startswith(inert + ".") for inert in INERT_MODULES) and name.isidentifier():
        class_name = f"{module}.{name}"

        def make(arguments: tuple[Any, ...]) -> InertObject:
            return InertObject(class_name)

        return Name(class_name, call=make, new=make)
    return _NAMES.get((module, name))


def _rebuild_tensor(arguments: tuple[Any, ...]) -> Tensor:
    storage, offset, size, stride = arguments[:4]
    return _view(storage, offset, tuple(size), tuple(stride))


def _inert(class_name: str) -> Name:
    """A stand-in for a value that no network needs."""
    return Name(
        class_name, call=lambda arguments: InertObject(class_name), new=lambda arguments: InertObject(class_name)
    )


# `MagLoss.cut_off` of UNPG's MagFace head is a NumPy number; its bytes come as a text in protocol 2.
_NUMPY_SCALAR, _NUMPY_DTYPE = _inert("numpy.scalar"), _inert("numpy.dtype")
_TENSOR = Name("a tensor", call=_rebuild_tensor)
_SET = Name("a set", call=make_set, new=make_set)
_NAMES: dict[tuple[str, str], Name] = {
    ("collections", "OrderedDict"): Name("a dictionary", call=make_dict, new=make_dict),
    ("torch", "Size"): Name("torch.Size", call=lambda arguments: tuple(*arguments)),
    ("torch", "device"): Name("torch.device", call=lambda arguments: None),  # kept by DataParallel modules
    ("builtins", "set"): _SET,
    ("__builtin__", "set"): _SET,
    ("numpy.core.multiarray", "scalar"): _NUMPY_SCALAR,  # NumPy 1
    ("numpy._core.multiarray", "scalar"): _NUMPY_SCALAR,
    ("numpy", "dtype"): _NUMPY_DTYPE,
    ("_codecs", "encode"): _inert("bytes"),
    ("torch._utils", "_rebuild_tensor"): _TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): _TENSOR,
    ("torch._utils", "_rebuild_parameter"): Name("a parameter", call=lambda arguments: arguments[0]),
}


def _view(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    numbers: list[int] = [offset, *size, *stride]
    if len(size) != len(stride) or any(not isinstance(number, int) or number < 0 for number in numbers):
        raise UnsafeCheckpointError(f"tensor with offset {offset!r}, size {size!r} and stride {stride!r}")
    count: int = torch.Size(size).numel()
    # No expanded views: a few bytes must not become a tensor of any size.
    last = offset + sum((length - 1) * step for length, step in zip(size, stride))
    if count > storage.numel() or (count and last >= storage.numel()):
        raise UnsafeCheckpointError(f"tensor of size {size} reaches beyond its {storage.numel()} stored values")
    return torch.as_strided(storage, size, stride, offset).clone()


def _members(module: InertObject, kind: str) -> dict[str, object]:
    members = module.state.get(kind, {})
    if not isinstance(members, dict) or any(not isinstance(name, str) for name in members):
        raise UnsafeCheckpointError(
            f"the {kind} of a pickled module are a {type(members).__name__}, not names and values"
        )
    return members
