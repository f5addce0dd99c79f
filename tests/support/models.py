"""Trained models in tests."""

from pathlib import Path

import pytest
import torch

from facelib.models import read_checkpoint

# The smallest network: 112 pixels to 16 numbers.
TINY = {"embedding_size": 16, "layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}


def assert_same_weights(first: Path, second: Path, tolerance: float) -> None:
    """Two checkpoints hold the same weights (0: bit for bit) and were chosen by the same metric."""
    a, b = read_checkpoint(first), read_checkpoint(second)
    assert a.image_spec["training"] == pytest.approx(b.image_spec["training"], abs=1e-4)
    for name, value in a.state_dict.items():
        assert torch.allclose(value.float(), b.state_dict[name].float(), rtol=tolerance, atol=tolerance), name
