"""Backbones by name: shapes, settings, gradients, and the published networks' numbers."""

import json
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from facelib.models import backbone_names, build_backbone, shapes_only

GOLDEN = Path(__file__).parents[2] / "golden"
SMALL = ["iresnet18", "iresnet10-narrow", "iresnet18-narrow", "mobilefacenet"]
PUBLISHED = [
    ("usynth", "usynthface_iresnet18"),
    ("usynth", "usynthface_iresnet50"),
    ("usynth", "usynthface_iresnet50_se"),
    ("usynth", "usynthface_iresnet100"),
    ("unpg", "unpg_iresnet34"),
    ("unpg", "unpg_iresnet50"),
    ("unpg", "unpg_iresnet100"),
]


def test_smallest_example():
    backbone = build_backbone("iresnet10-narrow", embedding_size=64)
    embeddings = backbone(torch.rand(2, 3, 112, 112) * 2 - 1)
    assert embeddings.shape == (2, 64)
    assert embeddings.dtype == torch.float32


@pytest.mark.parametrize(("file", "key"), PUBLISHED)
def test_parameters_have_the_published_names_and_shapes(file, key):
    expected = json.loads((GOLDEN / f"backbones_{file}_state_dict.json").read_text())[key]
    with shapes_only():
        backbone = build_backbone(key.split("_")[1], use_se=key.endswith("_se"))
    assert [[name, list(value.shape)] for name, value in backbone.state_dict().items()] == expected


def test_shapes_need_neither_memory_nor_the_compiler():
    """In a process of its own: other tests import the compiler, which takes a second."""
    code = """
import sys
from facelib.models import backbone_names, build_backbone, shapes_only
for name in backbone_names():
    with shapes_only():
        network = build_backbone(name, **({"layers": [1, 1, 1, 1]} if name == "iresnet" else {}))
    assert all(value.is_meta for value in network.state_dict().values())
assert "torch._dynamo" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("file", "key"), [PUBLISHED[0], PUBLISHED[2], PUBLISHED[4]])
@pytest.mark.slow
def test_embeddings_equal_the_originals(file, key):
    golden = np.load(GOLDEN / f"backbones_{file}.npz")[f"{key}/embedding"]
    backbone = build_backbone(key.split("_")[1], use_se=key.endswith("_se")).eval()
    _fill_by_formula(backbone)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    with torch.no_grad():
        embeddings = backbone(torch.from_numpy(images)).numpy()
    assert np.abs(embeddings - golden).max() < 1e-4 * golden.std()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_size", [64, 96])
def test_other_image_sizes(name, image_size):
    backbone = build_backbone(name, embedding_size=32, image_size=image_size).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, image_size, image_size)).shape == (1, 32)
    with pytest.raises(ValueError, match=r"expected \[N, 3, "):
        backbone(torch.zeros(1, 3, 112, 112))


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_and_channels_last_change_little(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, embedding_size=32, image_size=64).train()
    images = torch.rand(8, 3, 64, 64) * 2 - 1
    reference = backbone(images)
    backbone = backbone.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = backbone(images.contiguous(memory_format=torch.channels_last))
    assert embeddings.dtype == torch.float32, "the last layers compute in full precision"
    cosines = torch.nn.functional.cosine_similarity(embeddings, reference)
    assert cosines.min() > 0.95
    embeddings.square().sum().mul(torch.rand(())).add(embeddings[:, 0].sum()).backward()
    for parameter_name, parameter in backbone.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name


def test_a_few_steps_separate_two_images():
    torch.manual_seed(0)
    backbone = build_backbone("iresnet10-narrow", embedding_size=16, image_size=32)
    head = torch.nn.Linear(16, 4)
    images, labels = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    parameters = [*backbone.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.05, momentum=0.9)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(head(backbone(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_sizes_of_the_narrow_networks():
    """The small networks stay small: a change of their default settings must be seen."""
    millions = {
        name: sum(p.numel() for p in build_backbone(name, embedding_size=256).parameters()) / 1e6
        for name in ("iresnet10-narrow", "iresnet18-narrow", "mobilefacenet")
    }
    assert millions == pytest.approx(
        {"iresnet10-narrow": 4.44, "iresnet18-narrow": 6.01, "mobilefacenet": 1.06}, abs=0.02
    )


def test_dropout_acts_in_training_only():
    backbone = build_backbone("iresnet10-narrow", embedding_size=8, image_size=32, dropout=0.5)
    images = torch.rand(4, 3, 32, 32)
    assert not torch.equal(backbone(images), backbone(images))
    backbone.eval()
    assert torch.equal(backbone(images), backbone(images))


def test_building_is_a_function_of_the_global_seed_only():
    torch.manual_seed(5)
    first = build_backbone("iresnet10-narrow", image_size=32)
    torch.manual_seed(5)
    second = build_backbone("iresnet10-narrow", image_size=32)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnet50"}, "iresnet50"),
        ({"name": "iresnet18", "depth": 3}, "'depth'; it has: layers"),
        ({"name": "mobilefacenet", "use_se": True}, "no setting 'use_se'"),
        ({"name": "iresnet"}, "needs the setting 'layers'"),
        ({"name": "iresnet", "layers": [1, 1, 1]}, "layers = "),
        ({"name": "iresnet18", "embedding_size": 0}, "embedding_size = 0"),
        ({"name": "iresnet18", "dropout": 1.0}, "dropout = 1.0"),
        ({"name": "iresnet18", "image_size": 100}, "image_size = 100"),
        ({"name": "iresnet18", "width": 0}, "width = 0"),
        ({"name": "mobilefacenet", "width": -1}, "width = -1"),
        ({"name": "iresnet18", "stem_stride": 4}, "stem_stride = 4"),
        ({"name": "iresnet18", "activation": "gelu"}, "activation = 'gelu'"),
    ],
)
def test_errors_name_the_setting_and_what_exists(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build_backbone(**arguments)


def test_unknown_name_lists_every_name():
    with pytest.raises(ValueError, match="unknown backbone 'vit'") as error:
        build_backbone("vit")
    assert all(name in str(error.value) for name in backbone_names())


def test_integer_images_are_refused():
    with pytest.raises(ValueError, match="to_network_input"):
        build_backbone("iresnet10-narrow", image_size=32)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))


def _fill_by_formula(backbone: torch.nn.Module) -> None:
    for name, value in backbone.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        a = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(tuple(value.shape)).astype(np.float32)
        if name.endswith("running_var"):
            a = 1 + 0.1 * np.abs(a)
        elif a.ndim == 1 and name.endswith(".weight"):
            a = 1 + 0.05 * a
        elif a.ndim >= 2:
            a = a / np.sqrt(np.prod(a.shape[1:])).astype(np.float32)
        else:
            a = 0.05 * a
        value.copy_(torch.from_numpy(a))
