"""The network by itself; presets, settings and published numbers are in test_registry.py."""

import pytest
import torch

from facelib.models import MobileFaceNet


def test_smallest_example():
    network = MobileFaceNet(width=0.25, embedding_size=16, image_size=32).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


def test_the_scale_of_embeddings_is_not_trained():
    network = MobileFaceNet(width=0.25, embedding_size=16, image_size=32)
    assert [name for name, value in network.named_parameters() if not value.requires_grad] == ["features.weight"]


def test_settings_out_of_range():
    with pytest.raises(ValueError, match="width = 5"):
        MobileFaceNet(width=5)
