"""Parameters that are sharded over ranks (a sharded margin head): DDP, gradient clipping, checkpoints.

Every such parameter belongs to a `ShardedMarginLoss` in the method. DDP ignores it, the gradient norm includes every
rank's shard, and checkpoints hold the full tensor and its optimizer state, so that they do not depend on the number of
ranks. Without a sharded module each function does the plain thing.
"""

from typing import Any

import torch
from torch import nn

from facelib.losses import ShardedMarginLoss
from facelib.utils import distributed

Shards = dict[str, ShardedMarginLoss]  # by the name of their weight in the method's state_dict


def shards(method: nn.Module) -> Shards:
    """The sharded modules of a method, by the name of the weight each holds a shard of."""
    return {
        f"{name}.head.weight".removeprefix("."): module
        for name, module in method.named_modules()
        if isinstance(module, ShardedMarginLoss)
    }


def keep_from_ddp(method: nn.Module) -> None:
    """Make DistributedDataParallel, which must not have wrapped the method yet, ignore the sharded parameters."""
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(method, list(shards(method)))


def clip_gradients(method: nn.Module, max_norm: float) -> torch.Tensor:
    """Scale gradients to a norm of at most `max_norm` over all ranks' parameters; returns the norm before.

    With the norm of its own shard each rank would scale the replicated parameters differently.
    """
    split = shards(method)
    if not split:
        return nn.utils.clip_grad_norm_(method.parameters(), max_norm)
    own = [p.grad for n, p in method.named_parameters() if n in split and p.grad is not None]
    common = [p.grad for n, p in method.named_parameters() if n not in split and p.grad is not None]
    share = nn.utils.get_total_norm(own).square()
    norm = (nn.utils.get_total_norm(common).square() + distributed.all_reduce(share)).sqrt()
    nn.utils.clip_grads_with_norm_(method.parameters(), max_norm, norm)
    return norm


def share_overflow(method: nn.Module) -> None:
    """Make an overflow in one rank's shard of the gradients one of all ranks, all of which then skip the step.

    The other gradients are averages over the ranks, in which one rank's overflow shows.
    """
    split = shards(method)
    if not split or distributed.world_size() == 1:
        return
    gradients = [(name in split, p.grad) for name, p in method.named_parameters() if p.grad is not None]
    own = torch.stack([~gradient.isfinite().all() for sharded, gradient in gradients if sharded]).any()
    anywhere = distributed.all_reduce(own.float()) > 0
    for sharded, gradient in gradients:
        if not sharded:
            gradient.masked_fill_(anywhere, torch.inf)
            return


def gather_state(method: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """{"method", "optimizer"}: state dicts, complete on rank 0. All ranks must call it."""
    states = {"method": method.state_dict(), "optimizer": optimizer.state_dict()}
    # The inner dictionaries belong to the optimizer: copy them before they are changed.
    states["optimizer"]["state"] = {k: dict(v) for k, v in states["optimizer"]["state"].items()}
    for name, module in shards(method).items():
        for holder, key in _entries(states, name, method, optimizer):
            holder[key] = module.gather_classes(holder[key])
    return states


def load_state(method: nn.Module, optimizer: torch.optim.Optimizer, states: dict[str, Any]) -> None:
    """Load what `gather_state` returned on any number of ranks."""
    for name, module in shards(method).items():
        for holder, key in _entries(states, name, method, optimizer):
            holder[key] = module.own_classes(holder[key])
    for saved, own in zip(states["optimizer"]["param_groups"], optimizer.param_groups):
        saved["fused"] = own["fused"]  # of this run's device, not of that of the saved one
    method.load_state_dict(states["method"])
    optimizer.load_state_dict(states["optimizer"])


def _entries(
    states: dict[str, Any], name: str, method: nn.Module, optimizer: torch.optim.Optimizer
) -> list[tuple[dict[Any, Any], Any]]:
    """(mapping, key) of the parameter in both states: the weight, and momentum and the like, which have its rows."""
    weight = dict(method.named_parameters())[name]
    # An optimizer's state_dict numbers parameters in the order of its groups.
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    index = next(i for i, p in enumerate(ordered) if p is weight)
    beside = states["optimizer"]["state"].get(index, {})
    rows = [key for key, value in beside.items() if isinstance(value, torch.Tensor) and value.ndim == weight.ndim]
    return [(states["method"], name), *((beside, key) for key in rows)]
