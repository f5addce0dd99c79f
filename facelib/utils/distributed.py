"""Collectives over the ranks of one training run; without a process group each is the one-process case, at no cost.

A gather with a gradient follows the convention of DistributedDataParallel, which averages parameter gradients over
ranks: the gradient that reaches a rank's slice is the SUM over ranks of what each rank's own loss sends there, so that
after DDP's averaging the parameters receive the gradient of the mean of all ranks' losses.

Every rank must call the same functions in the same order with tensors of one shape.

Shapes: N batch of one rank, W ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """True inside an initialized process group, also one of a single rank."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """[N, ...] of each rank -> [W*N, ...] on every rank, in rank order, without gradient."""
    if world_size() == 1:
        return tensor.detach()
    tensor = tensor.detach().contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """[N, ...] of each rank -> [W*N, ...] on every rank, in rank order; gradients return to the rank they belong to."""
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """The tensor of rank `source` on every rank, without gradient. The argument is left alone."""
    if world_size() == 1:
        return tensor.detach()
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(result, src=source)
    return result


@torch.no_grad()
def all_reduce(tensor: Tensor, operation: str = "sum") -> Tensor:
    """Elementwise sum, mean or max over ranks on every rank, without gradient. The argument is left alone.

    Raises:
        ValueError: operation is not "sum", "mean" or "max".
    """
    if operation not in ("sum", "mean", "max"):
        raise ValueError(f'operation={operation!r} is unknown: choose "sum", "mean" or "max"')
    if world_size() == 1:
        return tensor.detach()
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=dist.ReduceOp.MAX if operation == "max" else dist.ReduceOp.SUM)
    return result / world_size() if operation == "mean" else result


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = len(tensor)
        return gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first = rank() * ctx.rows
        return all_reduce(gradients[0])[first : first + ctx.rows]
