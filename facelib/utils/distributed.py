"""Collectives over the ranks of one training run; without a process group each is the one-process case, at no cost.

A gather with a gradient follows the convention of DistributedDataParallel, which averages parameter gradients over
ranks: the gradient that reaches a rank's slice is the SUM over ranks of what each rank's own loss sends there, so that
after DDP's averaging the parameters receive the gradient of the mean of all ranks' losses.

Every rank must call the same functions in the same order with tensors of one shape.

Shapes: N batch of one rank, W ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from facelib.utils.devices import to_device


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
    result = tensor.new_empty(world_size() * len(tensor), *tensor.shape[1:])
    dist.all_gather_single(result, tensor)
    return result


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """[N, ...] of each rank -> [W*N, ...] on every rank, in rank order; gradients return to the rank they belong to."""
    if world_size() == 1:
        return tensor
    return _Gather.apply(tensor)


@torch.no_grad()
def exchange_rows(tensor: Tensor, order: np.ndarray) -> Tensor:
    """[N, ...] of each rank -> [N, ...], this rank's share of all rows in a new order; a row is sent to one rank.

    Without gradient; the memory format is kept.

    Args:
        order: permutation of 0..W*N-1, the same on every rank: rank r gets rows order[r*N : (r+1)*N] of `gather`'s.
    """
    count, ranks, own = len(tensor), world_size(), rank()
    shares = order.reshape(ranks, count)
    sent = [share[share // count == own] - own * count for share in shares]
    source = shares[own] // count  # of each row that comes; they come by rank, and within a rank in order
    place = np.argsort(np.argsort(source, kind="stable"))
    rows = tensor.detach().index_select(0, _index(np.concatenate(sent), tensor.device))
    if ranks > 1:
        received = torch.empty_like(rows, memory_format=torch.contiguous_format)
        counts = np.bincount(source, minlength=ranks).tolist()
        dist.all_to_all_single(received, rows.contiguous(), counts, [len(part) for part in sent])
        rows = received
    rows = rows.index_select(0, _index(place, tensor.device))
    last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return rows.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@torch.no_grad()
def restore_rows(tensor: Tensor, order: np.ndarray) -> Tensor:
    """Rows [W*N, ...] in the order of `exchange_rows` -> as they were before it."""
    return tensor.index_select(0, _index(np.argsort(order), tensor.device))


def _index(rows: np.ndarray, device: torch.device) -> Tensor:
    return to_device(torch.from_numpy(rows), device)


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """The tensor of rank `source` on every rank, without gradient. The argument is left alone."""
    if world_size() == 1:
        return tensor.detach()
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.broadcast(result, src=source)
    return result


def broadcast_object(value: Any, source: int = 0) -> Any:
    """The picklable value of rank `source` on every rank."""
    if world_size() == 1:
        return value
    shared = [value]
    dist.broadcast_object_list(shared, src=source)
    return shared[0]


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
        gradient = gradients[0].contiguous()
        own = gradient.new_empty(ctx.rows, *gradient.shape[1:])
        dist.reduce_scatter_single(own, gradient)
        return own
