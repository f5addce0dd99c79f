"""Vectors divided by their length, for tensors; `facelib.utils.arrays.l2_normalize` is the same for arrays."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def unit_vectors(vectors: Tensor, dim: int = 1) -> Tensor:
    """Vectors along `dim` divided by their L2 norm, whatever their length.

    Unlike `torch.nn.functional.normalize`, squares of tiny or huge vectors neither vanish nor overflow, and a zero
    vector, which has no direction, stays zero and has gradient zero instead of 1e12 times the one that comes in.
    """
    unit: Tensor = _UnitVectors.apply(vectors, dim)
    return unit


class _UnitVectors(torch.autograd.Function):
    """Written out because autograd would keep the scaled copy too."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, dim: int) -> Tensor:
        largest = torch.linalg.vector_norm(vectors, ord=float("inf"), dim=dim, keepdim=True)
        # By a power of two, which changes no digit: vectors of usual length give what they give without it.
        scale = torch.ldexp(torch.ones_like(largest), torch.frexp(largest).exponent - 1)
        unit = vectors / scale
        # At least 1, unless the vector is zero.
        length = torch.linalg.vector_norm(unit, dim=dim, keepdim=True).clamp_(min=0.5)
        unit /= length
        ctx.dim = dim
        ctx.save_for_backward(unit, length, scale)
        return unit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        unit, length, scale = ctx.saved_tensors
        along = (gradients[0] * unit).sum(dim=ctx.dim, keepdim=True)
        across = torch.addcmul(gradients[0], unit, along, value=-1)
        return across / torch.where(length >= 1, length * scale, torch.inf), None
