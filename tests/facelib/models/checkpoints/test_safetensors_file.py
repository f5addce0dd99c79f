import json
import struct

import pytest
import torch

from facelib.models import CheckpointError
from facelib.models.checkpoints.safetensors_file import DTYPES, is_safetensors, read_safetensors

TENSORS = {
    "a.weight": torch.tensor([[1.5, -2.0, 0.25]]),
    "half": torch.tensor([1.0, 2.0]).half(),
    "bfloat": torch.tensor([3.0]).bfloat16(),
    "count": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def safetensors_bytes(tensors, **changes):
    """A file as the format's description says."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in tensors.items():
        content = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": NAMES[value.dtype], "shape": list(value.shape), "data_offsets": offsets} | changes
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def test_tensors_of_every_kind(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_bytes(TENSORS))
    assert is_safetensors(path)
    found = read_safetensors(path)
    assert list(found) == list(TENSORS)
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (safetensors_bytes(TENSORS)[:-3], "incomplete"),
        (safetensors_bytes(TENSORS)[:100], "incomplete"),
        (safetensors_bytes({"a": torch.zeros(2)}, data_offsets=[0, 4]), "has 4 bytes for F32"),
        (safetensors_bytes({"a": torch.zeros(2)}, data_offsets=[-8, 0]), "damaged"),
        (safetensors_bytes({"a": torch.zeros(2)}, dtype="F8_E4M3"), "has type F8_E4M3; known types: F64"),
        (safetensors_bytes({"a": torch.zeros(2)}, shape=[-2]), "damaged"),
        (struct.pack("<Q", 8) + b"{nojson}", "damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, message):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    assert is_safetensors(path)
    with pytest.raises(CheckpointError, match=rf"broken\.safetensors: .*{message}"):
        read_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and more", b"\x80\x02}q\x00.", b"{" * 20])
def test_other_files_are_not_taken_for_it(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert not is_safetensors(path)
