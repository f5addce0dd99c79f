"""Read the tensors of a pickled torch module without running anything that the file says.

Format: `torch.save`'s zip archive (torch >= 1.6): `<prefix>/data.pkl` is a pickle whose tensors are persistent ids
of the records `<prefix>/data/<key>`. UNPG saves whole modules this way, so its pickle names classes
(`models.iresnet.IResNet`, `torch.nn.modules.conv.Conv2d`, ...). Here those names lead to inert stand-ins that only
keep their state: nothing is imported, no constructor and no method of a named class runs. Every other name is
refused.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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
MAX_PICKLE_BYTES = 64 << 20  # without its tensors, the description of even IResNet-200 takes less than 1 MB


class UnsafeCheckpointError(ValueError):
    """The file asks for something that could run code, or is built to mislead the reader."""


class InertObject:
    """Stands for an object of a class that the file names; `state` is what the file says it holds."""

    def __init__(self, *arguments: object) -> None:
        self.state: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


def read_inert(path: Path) -> object:
    """The pickled object of a torch zip archive, its modules as `InertObject`s and its tensors as tensors on the CPU.

    Raises:
        UnsafeCheckpointError: the pickle names anything but torch modules, tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _ArchiveUnpickler(archive, path).load()
    except zipfile.BadZipFile as error:
        raise UnsafeCheckpointError(
            f"{path}: not a torch zip archive, and not readable as plain tensors; save it anew as a state_dict"
        ) from error
    except UnsafeCheckpointError:
        raise
    except Exception as error:  # a hostile pickle can fail in any way: all of them mean "refused"
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


class _ArchiveUnpickler(pickle.Unpickler):
    """Knows only the names of a table made anew for each file, so that no file can alter how the next is read."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        entries = [entry for entry in archive.infolist() if entry.filename.split("/", 1)[-1] == "data.pkl"]
        if len(entries) != 1:
            raise UnsafeCheckpointError(f"{path}: {len(entries)} records data.pkl, a torch archive has one")
        self._archive, self._path = archive, path
        self._prefix = entries[0].filename.removesuffix("data.pkl")
        self._storages: dict[str, Tensor] = {}
        self._names = _safe_names()
        super().__init__(io.BytesIO(self._record("data.pkl", MAX_PICKLE_BYTES)), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._names:
            return self._names[module, name]
        if module == "torch" and name in STORAGE_TYPES:
            return STORAGE_TYPES[name]
        if any(module == inert or module.startswith(inert + ".") for inert in INERT_MODULES) and name.isidentifier():
            # A class of its own for every use: nothing done to it outlives the file or reaches another object.
            return type(name, (InertObject,), {})
        raise UnsafeCheckpointError(
            f"{self._path}: refused, its pickle asks for {module}.{name}; only torch modules and tensors are read. "
            f"Save the network's state_dict instead"
        )

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not str(key).isdigit():
            raise UnsafeCheckpointError(f"{self._path}: unknown persistent id {pid!r}")
        if key not in self._storages:
            size = int(count) * dtype.itemsize
            data = self._record(f"data/{key}", size)
            if len(data) != size:
                raise UnsafeCheckpointError(f"{self._path}: record {key} holds {len(data)} bytes, {size} announced")
            values = torch.frombuffer(bytearray(data), dtype=dtype) if size else torch.empty(0, dtype=dtype)
            self._storages[key] = values
        return self._storages[key]

    def _record(self, name: str, max_bytes: int) -> bytes:
        entry = self._archive.getinfo(self._prefix + name)
        # torch never compresses; a compressed record could unpack to any size.
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > max_bytes:
            raise UnsafeCheckpointError(f"{self._path}: record {name} is compressed or larger than announced")
        return self._archive.read(entry)


def _safe_names() -> dict[tuple[str, str], Callable[..., object]]:
    """Every name that stands for something: plain containers, and tensors rebuilt by our own code."""

    def rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
        return _view(storage, offset, tuple(size), tuple(stride))

    def rebuild_parameter(data: Tensor, *_: object) -> Tensor:
        return data

    def forget(*_: object) -> None:
        return None

    return {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): tuple,
        ("torch", "device"): forget,  # kept by modules wrapped for several GPUs
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("torch._utils", "_rebuild_tensor"): rebuild_tensor,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
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
