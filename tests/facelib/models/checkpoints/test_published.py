"""Checkpoints of other codebases: prefixes, formats, precision, and the pixels they expect."""

import gzip
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.models import assert_same_state, trained_backbone
from support.published_files import pickled_module
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


@pytest.mark.parametrize("numpy_name", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_unpg_with_magface_has_a_numpy_number_in_its_head(tmp_path, monkeypatch, numpy_name):
    """`MagLoss.cut_off = np.cos(...)`, by the names of NumPy 1 and 2."""
    names = types.ModuleType("models.magface")
    names.MagLoss = type("MagLoss", (nn.Module,), {"__module__": "models.magface", "__qualname__": "MagLoss"})
    monkeypatch.setitem(sys.modules, "models", types.ModuleType("models"))
    monkeypatch.setitem(sys.modules, "models.magface", names)
    backbone, loss = trained_backbone("iresnet", **TINY), names.MagLoss()
    loss.cut_off = np.cos(np.pi / 2 - 0.45)
    content = {"epoch": 1, "best_acc": np.float64(0.5), "backbone": pickled_module(backbone.state_dict()),
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


class _Published:
    """arcface_torch's networks as functions of their state_dict, written from their description, layer by layer."""

    def __init__(self, state):
        self.state = state

    def norm(self, x, name, eps=1e-5):
        weight, bias, mean, var = (self.state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var"))
        return F.batch_norm(x, mean, var, weight, bias, eps=eps)

    def unit(self, x, name, stride=1, padding=0, activation=True):
        weight = self.state[f"{name}.layers.0.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=padding, groups=x.shape[1] // weight.shape[1])
        x = self.norm(x, f"{name}.layers.1")
        return F.prelu(x, self.state[f"{name}.layers.2.weight"]) if activation else x

    def bottleneck(self, x, name, stride, residual):
        y = self.unit(self.unit(x, f"{name}.layers.0"), f"{name}.layers.1", stride, 1)
        y = self.unit(y, f"{name}.layers.2", activation=False)
        return x + y if residual else y

    def mobilefacenet(self, x, blocks):
        x = self.unit(x, "layers.0", 2, 1)
        if blocks[0] == 1:
            x = self.unit(x, "layers.1", 1, 1)
        else:
            for number in range(blocks[0]):
                x = self.bottleneck(x, f"layers.1.layers.{number}", 1, True)
        for layer, count in ((2, blocks[1]), (4, blocks[2]), (6, blocks[3])):
            x = self.bottleneck(x, f"layers.{layer}", 2, False)
            for number in range(count):
                x = self.bottleneck(x, f"layers.{layer + 1}.layers.{number}", 1, True)
        x = self.unit(self.unit(x, "conv_sep"), "features.layers.0", activation=False).flatten(1)
        return self.norm(F.linear(x, self.state["features.layers.2.weight"]), "features.layers.3")

    def layer_norm(self, x, name):
        return F.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def linear(self, x, name):
        return F.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def vit(self, x, depth, heads=8):
        patch = self.state["patch_embed.proj.weight"]
        x = F.conv2d(x, patch, self.state["patch_embed.proj.bias"], stride=patch.shape[2]).flatten(2).transpose(1, 2)
        x = x + self.state["pos_embed"]
        for number in range(depth):
            name = f"blocks.{number}"
            count, length, width = x.shape
            qkv = self.linear(self.layer_norm(x, f"{name}.norm1"), f"{name}.attn.qkv")
            q, k, v = qkv.reshape(count, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            attention = ((q @ k.transpose(2, 3)) / (width // heads) ** 0.5).softmax(3)
            x = x + self.linear((attention @ v).transpose(1, 2).reshape(x.shape), f"{name}.attn.proj")
            hidden = self.linear(self.layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1").clamp(0, 6)
            x = x + self.linear(hidden, f"{name}.mlp.fc2")
        x = self.linear(self.layer_norm(x, "norm").flatten(1), "feature.0")
        return self.norm(self.linear(self.norm(x, "feature.1", 2e-5), "feature.2"), "feature.3", 2e-5)


def _random_state(shapes):
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator) / max(1, int(np.prod(shape[1:]))) ** 0.5
        state[name] = value.abs() + 0.5 if name.endswith(("running_var", ".1.weight")) else value
    return state


def _unit_shapes(name, inputs, outputs, kernel=1, groups=1, activation=True):
    norm = {f"{name}.layers.1.{key}": (outputs,) for key in ("weight", "bias", "running_mean", "running_var")}
    shapes = {f"{name}.layers.0.weight": (outputs, inputs // groups, kernel, kernel), **norm}
    return shapes | ({f"{name}.layers.2.weight": (outputs,)} if activation else {})


def _bottleneck_shapes(name, inputs, outputs, hidden):
    return {
        **_unit_shapes(f"{name}.layers.0", inputs, hidden),
        **_unit_shapes(f"{name}.layers.1", hidden, hidden, 3, hidden),
        **_unit_shapes(f"{name}.layers.2", hidden, outputs, activation=False),
    }


def _mobilefacenet_shapes(scale, blocks, size):
    """As `MobileFaceNet(num_features=size, blocks=blocks, scale=scale)` of arcface_torch has them."""
    first, second = 64 * scale, 128 * scale
    shapes = _unit_shapes("layers.0", 3, first, 3)
    if blocks[0] == 1:
        shapes |= _unit_shapes("layers.1", first, first, 3, 64)
    for number in range(blocks[0] if blocks[0] > 1 else 0):
        shapes |= _bottleneck_shapes(f"layers.1.layers.{number}", first, first, 128)
    for layer, count, inputs, outputs, down, hidden in (
        (2, blocks[1], first, first, 128, 128), (4, blocks[2], first, second, 256, 256),
        (6, blocks[3], second, second, 512, 256),
    ):  # fmt: skip
        shapes |= _bottleneck_shapes(f"layers.{layer}", inputs, outputs, down)
        for number in range(count):
            shapes |= _bottleneck_shapes(f"layers.{layer + 1}.layers.{number}", outputs, outputs, hidden)
    shapes |= _unit_shapes("conv_sep", second, 512) | _unit_shapes("features.layers.0", 512, 512, 7, 512, False)
    norm = {f"features.layers.3.{key}": (size,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes | {"features.layers.2.weight": (size, 512)} | norm


def _vit_shapes(width, depth, size):
    shapes = {
        "pos_embed": (1, 144, width), "mask_token": (1, 1, width), "patch_embed.proj.weight": (width, 3, 9, 9),
        "patch_embed.proj.bias": (width,),
    }  # fmt: skip
    for number in range(depth):
        for name, shape in (("attn.qkv", (3 * width, width)), ("attn.proj", (width, width)),
                            ("mlp.fc1", (4 * width, width)), ("mlp.fc2", (width, 4 * width))):  # fmt: skip
            shapes[f"blocks.{number}.{name}.weight"] = shape
            if name != "attn.qkv":
                shapes[f"blocks.{number}.{name}.bias"] = shape[:1]
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{number}.{name}.{key}": (width,) for key in ("weight", "bias")}
    shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
    shapes |= {"feature.0.weight": (width, 144 * width), "feature.2.weight": (size, width)}
    for name, count in (("feature.1", width), ("feature.3", size)):
        shapes |= {f"{name}.{key}": (count,) for key in ("weight", "bias", "running_mean", "running_var")}
    return shapes


@pytest.mark.parametrize("blocks", [(1, 4, 6, 2), (2, 1, 2, 3)])
@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_mobilefacenet_of_arcface_torch(tmp_path, blocks, scale, prefix):
    state = _random_state(_mobilefacenet_shapes(scale, blocks, 32))
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "mbf.pth")
    checkpoint = read_checkpoint(tmp_path / "mbf.pth")
    assert (checkpoint.name, checkpoint.normalization) == ("mobilefacenet", "symmetric")
    assert checkpoint.settings == {"embedding_size": 32, "scale": scale, "blocks": list(blocks)}
    _assert_same_numbers(load_backbone(tmp_path / "mbf.pth"), lambda x: _Published(state).mobilefacenet(x, blocks))


@pytest.mark.parametrize(("width", "depth"), [(64, 2), (32, 3)])
def test_vit_of_arcface_torch(tmp_path, width, depth):
    state = _random_state(_vit_shapes(width, depth, 16))
    torch.save(state, tmp_path / "vit.pt")
    checkpoint = read_checkpoint(tmp_path / "vit.pt")
    assert (checkpoint.name, checkpoint.normalization) == ("vit-s", "symmetric")
    assert checkpoint.settings == {"embedding_size": 16, "width": width, "depth": depth, "patch_size": 9}
    _assert_same_numbers(load_backbone(tmp_path / "vit.pt"), lambda x: _Published(state).vit(x, depth))


def _assert_same_numbers(network, reference):
    images = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        found, expected = network(images), reference(images)
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
