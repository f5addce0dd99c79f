"""Reader of safetensors files: a JSON header and the bytes of the tensors, nothing that could run.

Layout: the header's length N as little-endian uint64; N bytes of JSON, {name: {dtype, shape, data_offsets: [begin,
end]}} with offsets from the end of the header, and optional strings under `__metadata__`; the data.
"""

import json
import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from facelib.models.checkpoints.checkpoint import CheckpointError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MAX_HEADER_BYTES = 64 << 20


def is_safetensors(path: Path) -> bool:
    """Whether the file begins as a safetensors file does: a plausible length, then a JSON object."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= MAX_HEADER_BYTES


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name, on the CPU.

    Raises:
        CheckpointError: the file is damaged, incomplete, or has values of a type that networks do not have.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if 8 + length > size:
            raise CheckpointError(f"{path}: incomplete safetensors file ({size} bytes); copy or download it again")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            return {name: _read_tensor(file, 8 + length, size, name, entry) for name, entry in entries.items()}
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{path}: damaged safetensors file ({error})") from None


def _read_tensor(file, start: int, size: int, name: str, entry: dict) -> Tensor:  # type: ignore[no-untyped-def, type-arg]
    if entry["dtype"] not in DTYPES:
        raise CheckpointError(f"{name} has type {entry['dtype']}; known types: {', '.join(DTYPES)}")
    dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not 0 <= begin <= end or any(not isinstance(n, int) or n < 0 for n in shape):
        raise CheckpointError(f"{name} has shape {shape} at bytes {begin} to {end}: damaged safetensors file")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{name} has {end - begin} bytes for {entry['dtype']} {shape}: damaged safetensors file")
    if start + end > size:
        raise CheckpointError(f"incomplete safetensors file, {name} ends beyond it; copy or download it again")
    file.seek(start + begin)
    data = bytearray(file.read(end - begin))
    values = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
    return values.reshape(shape)
