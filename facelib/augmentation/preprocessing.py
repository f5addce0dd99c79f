"""From stored pixels to network input."""

import torch
from torch import Tensor

from facelib.augmentation.operations import check_batch


def to_network_input(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [N, 3, H, W] -> float [N, 3, H, W] in [-1, 1]: (x / 255 - 0.5) / 0.5. The memory format is kept.

    Raises:
        ValueError: images are not uint8 [N, 3, H, W].
    """
    check_batch(images)
    return images.to(torch.float32).mul_(2 / 255).sub_(1).to(dtype)
