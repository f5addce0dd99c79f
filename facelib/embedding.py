"""Embeddings of aligned faces: the one place where a backbone meets images outside training.

N images, H and W pixels, D embedding.
"""

import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from facelib.augmentation import to_network_input
from facelib.data import decode_image
from facelib.models import backbone_of, read_checkpoint, take_symmetric_pixels
from facelib.utils.devices import autocast
from facelib.utils.flip import FlipRule, flip_rule, join_flipped


class NonFiniteEmbeddingError(ValueError):
    """An image whose embedding is not finite.

    Attributes:
        image: its number among the images given.
    """

    def __init__(self, image: int) -> None:
        super().__init__(image)
        self.image = image

    def __str__(self) -> str:
        return f"image {self.image}: {self.reason}"

    @property
    def reason(self) -> str:
        """What is wrong, without the number."""
        return "its embedding is not finite: the model is broken, or overflows at this precision"


def embed_images(
    backbone: nn.Module,
    images: np.ndarray | Sequence[bytes],
    flip: FlipRule | bool = "sum",
    batch_size: int = 256,
    precision: str = "float32",
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """Embed aligned faces with a backbone in evaluation mode, on the device of its weights.

    Args:
        images: uint8 [N, H, W, 3] RGB, or N encoded images (decoded batch by batch).
        flip: what becomes of the embedding of the flipped face, see `facelib.utils.flip`; `sum` adds it, as the field's
            verification scripts do.
        precision: `float32`, or `bfloat16` or `float16` for autocast.
        progress: called with the number of images of each finished batch.

    Returns:
        float32 [N, D] ([N, 2D] with `concat`), not normalized; [0, D] of no images.

    Raises:
        NonFiniteEmbeddingError: names the first image whose embedding is not finite.
        ValueError: unknown flip rule.
    """
    rule = flip_rule(flip)
    if len(images) == 0:
        # One black image shows D.
        size = int(getattr(backbone, "image_size", 112))
        return embed_images(backbone, np.zeros((1, size, size, 3), np.uint8), flip, precision=precision)[:0]
    first = next(backbone.parameters())
    device = first.device
    training = backbone.training
    backbone.eval()
    out = []
    try:
        with torch.inference_mode(), autocast(device, precision):
            for begin in range(0, len(images), batch_size):
                chunk = images[begin : begin + batch_size]
                pixels = chunk if isinstance(chunk, np.ndarray) else np.stack([decode_image(data) for data in chunk])
                # Permuting is a view: the memory stays channels-last, the fastest layout for convolutions.
                x = to_network_input(torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(0, 3, 1, 2))
                sides = [x] if rule == "none" else [x, x.flip(3)]
                embeddings = [backbone(side).float().cpu().numpy() for side in sides]
                out.append(embeddings[0] if rule == "none" else join_flipped(embeddings[0], embeddings[1], rule))
                finite = np.isfinite(out[-1]).all(axis=1)
                if not finite.all():
                    raise NonFiniteEmbeddingError(begin + int(np.argmin(finite)))
                if progress is not None:
                    progress(len(pixels))
    finally:
        backbone.train(training)
    return np.concatenate(out)


def load_face_model(path: str | os.PathLike[str], normalization: str = "auto") -> nn.Module:
    """The network of a checkpoint for images in [-1, 1], whatever it was trained with; on the CPU, evaluating.

    Args:
        normalization: of the pixels that the network was trained on, for files that do not state it; see
            `facelib.models.NORMALIZATIONS`.

    Raises:
        CheckpointError: the file does not state the normalization and none is given, or it states another; and as
            `facelib.models.load_backbone`.
    """
    checkpoint = read_checkpoint(path)
    trained = checkpoint.require_normalization(path, normalization)
    return take_symmetric_pixels(backbone_of(checkpoint, path), trained)
