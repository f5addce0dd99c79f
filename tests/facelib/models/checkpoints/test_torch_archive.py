"""Hostile checkpoints: nothing in them runs, and each is refused with a reason."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from facelib.models import UnsafeCheckpointError, load_backbone
from facelib.models.checkpoints.torch_archive import InertObject, read_torch_archive

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*TorchScript", "ignore:.*jit")
GOLDEN = Path(__file__).parents[3] / "golden"


def test_smallest_example(tmp_path):
    """A pickled module, read without its class."""
    path = tmp_path / "unpg.pt"
    path.write_bytes(gzip.decompress((GOLDEN / "unpg_checkpoint_tiny.pt.gz").read_bytes()))
    content = read_torch_archive(path)
    assert content["epoch"] == 3
    assert isinstance(content["backbone"], InertObject)
    assert content["backbone"].class_name == "models.iresnet.IResNet"


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def _global_call(module: str, name: str, *arguments: str) -> bytes:
    """A pickle that calls any global name, dotted ones too (protocol 4)."""
    text = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, name))
    given = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in arguments)
    return b"\x80\x04" + text + b"\x93(" + given + b"tR."


def hostile_pickles(marker: Path) -> dict[str, bytes]:
    command = f"touch {marker}"
    return {
        "os.system": pickle.dumps({"backbone": Call(os.system, command)}),
        "posix by protocol 0": f"cposix\nsystem\n(V{command}\ntR.".encode(),
        "eval": pickle.dumps({"backbone": Call(eval, f"open({str(marker)!r}, 'w')")}),
        "getattr chain": _global_call("builtins", "getattr", "x", "y"),
        "dotted name through torch": _global_call("torch", "serialization.os.system", command),
        "dotted name through an inert module": _global_call("torch.nn.modules", "module.torch.os.system", command),
        "dotted name through models": _global_call("models", "iresnet.os.system", command),
        "torch.load": _global_call("torch", "load", str(marker)),
        "torch.hub": _global_call("torch.hub", "load", "a", "b"),
        "torch.jit": _global_call("torch.jit", "load", str(marker)),
        "numpy.load": _global_call("numpy", "load", str(marker)),
        "functools.partial": _global_call("functools", "partial", "x"),
        "operator.attrgetter": _global_call("operator", "attrgetter", "__globals__"),
        "own class": _global_call("facelib.models.checkpoints.torch_archive", "read_torch_archive", str(marker)),
        "extension registry": b"\x80\x02\x82\x01.",
        "instance of os.system": f"(V{command}\nios\nsystem\n.".encode(),
        "object of os.system": f"(cos\nsystem\nV{command}\no.".encode(),
        "tensor from a foreign type": _global_call("torch._tensor", "_rebuild_from_type_v2", "x"),
        "endless nesting": b"\x80\x02" + b"(" * 200000,
        "truncated": b"\x80\x02}(",
    }


@pytest.mark.parametrize("name", list(hostile_pickles(Path("x"))))
@pytest.mark.parametrize("container", ["archive", "bare", "legacy"])
def test_hostile_pickles_are_refused_and_do_not_run(tmp_path, name, container):
    marker = tmp_path / "ran"
    data = hostile_pickles(marker)[name]
    path = tmp_path / "hostile.pt"
    if container == "archive":
        _write_archive(path, data)
    elif container == "bare":
        path.write_bytes(data)
    else:  # torch.save's format before 1.6: magic number, protocol version, system info, object
        header = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in header) + data)
    with pytest.raises(UnsafeCheckpointError, match=r"hostile\.pt"):
        load_backbone(path)
    assert not marker.exists()


def test_the_hostile_pickles_work_when_unpickled_carelessly(tmp_path):
    """Without this, the tests above could pass because the attacks are broken."""
    for name in ("os.system", "posix by protocol 0", "eval", "dotted name through torch", "instance of os.system"):
        marker = tmp_path / name
        pickle.loads(hostile_pickles(marker.with_name("ran"))[name])
        assert marker.with_name("ran").exists(), name
        marker.with_name("ran").unlink()


def test_the_message_has_the_refused_name(tmp_path):
    _write_archive(tmp_path / "h.pt", pickle.dumps(Call(os.system, "true")))
    with pytest.raises(UnsafeCheckpointError, match=r"refused, its pickle asks for posix\.system"):
        load_backbone(tmp_path / "h.pt")


def test_a_file_cannot_alter_how_the_next_is_read(tmp_path):
    """BUILD with slot state sets attributes on what it is given: here on a rebuild function and on a stand-in class."""
    for target in (
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"cmodels.iresnet\nIResNet\n",
        b"ccollections\nOrderedDict\n",
    ):
        poison = b"\x80\x02" + target + b"N}X\x08\x00\x00\x00__init__X\x01\x00\x00\x00xs\x86b."
        _write_archive(tmp_path / "poison.pt", poison)
        with pytest.raises(ValueError, match=r"poison\.pt"):
            load_backbone(tmp_path / "poison.pt")
    test_smallest_example(tmp_path)


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count"),
    [((1 << 20,), (0,), 0, 4), ((8,), (1,), 0, 4), ((2,), (1,), 3, 4), ((2,), (-1,), 1, 4), ((4,), (1,), 0, 1 << 40)],
    ids=["expanded", "too long", "offset", "negative stride", "announced more than stored"],
)
def test_tensors_stay_within_their_stored_values(tmp_path, size, stride, offset, count):
    buffer = io.BytesIO()

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            return ("storage", torch.FloatStorage, "0", "cpu", count) if isinstance(item, Storage) else None

    tensor = Call(torch._utils._rebuild_tensor_v2, Storage(), offset, size, stride, False, {})
    Pickler(buffer, protocol=2).dump({"backbone": tensor})
    _write_archive(tmp_path / "t.pt", buffer.getvalue(), {"data/0": struct.pack("<4f", 1, 2, 3, 4)})
    with pytest.raises(UnsafeCheckpointError):
        read_torch_archive(tmp_path / "t.pt")


def test_compressed_records_are_refused(tmp_path):
    _write_archive(tmp_path / "bomb.pt", pickle.dumps({}) + b"\0" * 1000, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnsafeCheckpointError, match="compressed"):
        read_torch_archive(tmp_path / "bomb.pt")


def test_a_script_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UnsafeCheckpointError, match=r"script\.pt"):
        load_backbone(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
    ],
)
def test_what_is_there_in_place_of_a_checkpoint(tmp_path, data, kind):
    """PPGNet 2, face_parsing 3, facenet-pytorch 90: "invalid load key"."""
    (tmp_path / "model.pth").write_bytes(data)
    with pytest.raises(UnsafeCheckpointError, match=rf"model\.pth: not a checkpoint, it is {kind}"):
        read_torch_archive(tmp_path / "model.pth")


def test_files_that_are_not_pickles(tmp_path):
    for content in (b"", b"\x89PNG\r\n", os.urandom(256)):
        (tmp_path / "noise.pt").write_bytes(content)
        with pytest.raises(ValueError, match=r"noise\.pt"):
            load_backbone(tmp_path / "noise.pt")


def _write_archive(
    path: Path, data: bytes, records: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
        for name, content in (records or {}).items():
            archive.writestr(f"archive/{name}", content)
