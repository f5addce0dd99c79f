"""Checkpoints of other codebases: prefixes, formats, precision, and the pixels they expect."""

import gzip
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import assert_same_state, trained_backbone
from torch import nn

from facelib.models import CheckpointError, UnsafeCheckpointError, load_backbone, read_checkpoint, save_backbone

from .test_safetensors_file import safetensors_bytes

GOLDEN = Path(__file__).parents[3] / "golden"
TINY = {"embedding_size": 8, "image_size": 32, "layers": [1, 2, 1, 1], "width": 0.25}


@pytest.fixture
def backbone():
    network = trained_backbone("iresnet", **TINY)
    network.features.weight.data.fill_(1)  # as arcface_torch leaves it
    return network


def prefixed(backbone, prefix):
    return {prefix + name: value for name, value in backbone.state_dict().items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "backbone.", "module._orig_mod.", "_orig_mod.module.", "model.backbone."]
)
@pytest.mark.parametrize("key", [None, "state_dict", "state_dict_backbone", "backbone", "model"])
def test_wrappers_and_prefixes_are_seen_through(backbone, tmp_path, prefix, key):
    state = prefixed(backbone, prefix)
    torch.save(state if key is None else {"epoch": 3, key: state}, tmp_path / "a.pth")
    checkpoint = read_checkpoint(tmp_path / "a.pth")
    assert (checkpoint.format, checkpoint.normalization) == ("arcface_torch", "symmetric")
    assert_same_state(load_backbone(tmp_path / "a.pth"), backbone)


def test_a_whole_training_of_arcface_torch_is_its_backbone(backbone, tmp_path):
    content = {
        "epoch": 3,
        "global_step": 100,
        "state_dict_backbone": backbone.state_dict(),
        "state_dict_softmax_fc": {"weight": torch.rand(20, 8)},
        "state_optimizer": {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": []},
    }
    torch.save(content, tmp_path / "checkpoint_gpu_0.pt")
    assert_same_state(load_backbone(tmp_path / "checkpoint_gpu_0.pt"), backbone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(backbone, tmp_path, dtype):
    torch.save(prefixed(backbone.to(dtype), "module."), tmp_path / "half.pth")
    loaded = load_backbone(tmp_path / "half.pth")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    assert_same_state(loaded, backbone.float())


def test_safetensors(backbone, tmp_path):
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(prefixed(backbone.half(), "module.")))
    assert_same_state(load_backbone(tmp_path / "a.safetensors"), backbone.float())


@pytest.mark.parametrize(
    ("prefix", "head"), [("features.module.", "fc.weight"), ("module.features.", "module.fc.weight")]
)
def test_official_magface(tmp_path, prefix, head):
    """The head's `fc.weight` [D, C] is not the backbone's; pixels are BGR in [0, 1], BatchNorm has another epsilon."""
    backbone = trained_backbone("iresnet", **TINY)
    state = {**prefixed(backbone, prefix), head: torch.rand(8, 20)}
    torch.save({"epoch": 25, "arch": "iresnet100", "state_dict": state, "optimizer": {}}, tmp_path / "magface.pth")
    checkpoint = read_checkpoint(tmp_path / "magface.pth")
    assert (checkpoint.format, checkpoint.normalization, checkpoint.settings["eps"]) == ("magface", "unit_bgr", 2e-5)
    loaded = load_backbone(tmp_path / "magface.pth")
    assert_same_state(loaded, backbone)
    assert {m.eps for m in loaded.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)} == {2e-5}


def _pickled_module(state):
    """Modules with these tensors, as `torch.save(module)` pickles them."""
    root = nn.Module()
    for name, value in state.items():
        *parents, key = name.split(".")
        module = root
        for parent in parents:
            if parent not in module._modules:
                module.add_module(parent, nn.Module())
            module = module._modules[parent]
        module.register_buffer(key, value)
    return root


@pytest.mark.parametrize("numpy_name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_unpg_with_magface_has_a_numpy_number_in_its_head(tmp_path, monkeypatch, numpy_name):
    """`MagLoss.cut_off = np.cos(...)`, by the names of NumPy 1 and 2."""
    names = types.ModuleType("models.magface")
    names.MagLoss = type("MagLoss", (nn.Module,), {"__module__": "models.magface", "__qualname__": "MagLoss"})
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.magface", names)
    backbone, loss = trained_backbone("iresnet", **TINY), names.MagLoss()
    loss.cut_off = np.cos(np.pi / 2 - 0.45)
    content = {"epoch": 1, "best_acc": np.float64(0.5), "backbone": _pickled_module(backbone.state_dict()),
               "headandloss": loss}  # fmt: skip
    torch.save(content, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "last.pt", "w") as old:
        for entry in new.infolist():
            data = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                ours = np.float64.__reduce__(loss.cut_off)[0].__module__
                assert ours.encode() in data
                data = data.replace(ours.encode(), numpy_name.encode())
            old.writestr(entry.filename, data)
    checkpoint = read_checkpoint(tmp_path / "last.pt")
    assert (checkpoint.format, checkpoint.normalization) == ("unpg", "imagenet")
    assert_same_state(load_backbone(tmp_path / "last.pt"), backbone)


def test_a_numpy_array_in_a_head_is_refused_still(tmp_path):
    torch.save({"backbone": nn.Linear(2, 2), "extra": np.zeros(3)}, tmp_path / "a.pt")
    with pytest.raises(UnsafeCheckpointError, match=r"a\.pt: refused.*_reconstruct"):
        load_backbone(tmp_path / "a.pt")


def test_a_resaved_unpg_network_asks_for_its_pixels(tmp_path):
    """UNPG trains the last scale, arcface_torch keeps it at one."""
    path = tmp_path / "last.pt"
    path.write_bytes(gzip.decompress((GOLDEN / "unpg_checkpoint_tiny.pt.gz").read_bytes()))
    network = load_backbone(path)
    assert network.normalization == "imagenet"
    torch.save(network.state_dict(), tmp_path / "state_dict.pth")
    assert read_checkpoint(tmp_path / "state_dict.pth").normalization is None
    settings = read_checkpoint(path).settings
    save_backbone(tmp_path / "ours.pt", network, "iresnet", settings, {"template": "arcface"})
    assert read_checkpoint(tmp_path / "ours.pt").normalization == "imagenet"


def test_several_networks_are_an_error(backbone, tmp_path):
    torch.save({**prefixed(backbone, "student."), **prefixed(backbone, "teacher.")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: several networks, under the prefixes student\., teacher\."):
        load_backbone(tmp_path / "a.pth")


@pytest.mark.parametrize("content", [{"layer.0.weight": torch.zeros(4, 4)}, {"a": {"b": {"c": torch.zeros(1)}}}])
def test_what_is_no_known_network_is_explained(tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: no IResNet, .* nor a MobileFaceNet or ViT; found .*known"):
        load_backbone(tmp_path / "a.pth")
