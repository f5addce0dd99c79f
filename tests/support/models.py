"""Trained models in tests."""

from pathlib import Path

import pytest
import torch

from facelib.models import build_backbone, read_checkpoint

# The smallest network: 112 pixels to 16 numbers.
TINY = {"embedding_size": 16, "layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}


def assert_same_weights(first: Path, second: Path, tolerance: float) -> None:
    """Two checkpoints hold the same weights (0: bit for bit) and were chosen by the same metric."""
    a, b = read_checkpoint(first), read_checkpoint(second)
    assert a.image_spec["training"] == pytest.approx(b.image_spec["training"], abs=1e-4)
    for name, value in a.state_dict.items():
        assert torch.allclose(value.float(), b.state_dict[name].float(), rtol=tolerance, atol=tolerance), name


def trained_backbone(name: str, **settings: object) -> torch.nn.Module:
    """A backbone whose parameters and statistics all differ from those of a fresh one."""
    backbone = build_backbone(name, **settings)
    for value in backbone.state_dict().values():
        value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else torch.tensor(7))
    return backbone


def assert_same_state(first: torch.nn.Module, second: torch.nn.Module) -> None:
    """Two networks have the same parameters and statistics, bit for bit."""
    assert list(first.state_dict()) == list(second.state_dict())
    for name, value in second.state_dict().items():
        assert torch.equal(first.state_dict()[name], value), name
