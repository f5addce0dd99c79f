"""The network by itself; presets, settings and published numbers are in test_registry.py."""

import pytest
import torch

from facelib.models import IResNet


def test_smallest_example():
    network = IResNet(layers=(1, 1, 1, 1), width=0.25, embedding_size=16, image_size=32).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def test_the_scale_of_embeddings_is_not_trained():
    network = IResNet(layers=(1, 1, 1, 1), width=0.25, embedding_size=16, image_size=32)
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["features.weight"]


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="width = 5"):
        IResNet(layers=(1, 1, 1, 1), width=5)


def test_unpg_initialization():
    """Kaiming by the outputs: variance 2 / (outputs · kernel area); the last scale learns."""
    torch.manual_seed(0)
    network = IResNet(layers=(1, 1, 1, 1), embedding_size=16, image_size=32, weight_init="kaiming", train_scale=True)
    assert all(value.requires_grad for value in network.parameters())
    for name, expected in (("conv1", 2 / (64 * 9)), ("layer4.0.conv1", 2 / (512 * 9))):
        assert network.get_submodule(name).weight.var().item() == pytest.approx(expected, rel=0.1)
    assert network.get_submodule("layer4.0.downsample.0").weight.var().item() == pytest.approx(2 / 512, rel=0.1)
    with pytest.raises(ValueError, match="weight_init = 'xavier': must be 'normal' or 'kaiming'"):
        IResNet(layers=(1, 1, 1, 1), weight_init="xavier")
