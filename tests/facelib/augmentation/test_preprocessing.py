import pytest
import torch

from facelib.augmentation import to_network_input


def test_smallest_example():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert to_network_input(images)[0, 0].tolist() == [[-1.0, 1.0]]


def test_the_memory_format_is_kept():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert to_network_input(images).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="uint8"):
        to_network_input(images.float())
