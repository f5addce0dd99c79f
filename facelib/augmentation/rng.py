"""Random draws for augmentation: explicit generators, and rows that no cutting of a stream into batches changes."""

import torch
from torch import Tensor


def new_generator(seed: int | None) -> torch.Generator:
    """A CPU generator of its own; the global one is neither read nor moved. None seeds from the system's entropy."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def uniforms(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """float64 [rows, columns] on the CPU, uniform in [0, 1): two calls for n rows give what one for 2n rows gives.

    Draws stay on the CPU when the images are on a GPU: both then give the same augmentation.
    """
    draws = torch.rand(rows, columns, dtype=torch.float64, generator=generator, device=generator.device)
    return draws.cpu()
