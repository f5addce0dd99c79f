"""Embeddings of aligned faces: the one place where a backbone meets pictures outside training.

N images, H and W pixels, D embedding.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from facelib.augmentation import to_network_input
from facelib.faces import decode_image


def embed_images(
    backbone: nn.Module,
    images: np.ndarray | Sequence[bytes],
    flip: bool = True,
    batch_size: int = 256,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed aligned faces with a backbone in evaluation mode, on the device of its weights.

    Args:
        images: uint8 [N, H, W, 3] RGB, or N encoded pictures (decoded batch by batch).
        flip: add the embedding of the mirrored face, as the field's verification scripts do.
        precision: `float32`, or `bfloat16` for autocast.
        progress: called with the number of images of each finished batch.

    Returns:
        float32 [N, D], not normalised; [0, D] of no images.
    """
    if len(images) == 0:
        # One black picture tells D.
        size = int(getattr(backbone, "image_size", 112))
        return embed_images(backbone, np.zeros((1, size, size, 3), np.uint8), flip, precision=precision)[:0]
    first = next(backbone.parameters())
    device = first.device
    training = backbone.training
    backbone.eval()
    out = []
    try:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            for begin in range(0, len(images), batch_size):
                chunk = images[begin : begin + batch_size]
                pixels = chunk if isinstance(chunk, np.ndarray) else np.stack([decode_image(data) for data in chunk])
                # Pictures lie channels-last in memory, and permuting keeps that: what convolutions like best.
                x = to_network_input(torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2))
                embeddings = backbone(x).float()
                if flip:
                    embeddings = embeddings + backbone(x.flip(3)).float()
                out.append(embeddings.cpu().numpy())
                if progress is not None:
                    progress(len(pixels))
    finally:
        backbone.train(training)
    return np.concatenate(out)
