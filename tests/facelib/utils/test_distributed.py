"""Collectives without a process group and on two ranks."""

import pytest
import torch

from facelib.utils import distributed


def test_one_process_needs_no_group():
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert torch.equal(distributed.gather(x), x)
    assert not distributed.gather(x).requires_grad
    assert distributed.gather_with_gradient(x) is x
    assert torch.equal(distributed.broadcast(x), x)
    assert torch.equal(distributed.all_reduce(x, "mean"), x)


def test_unknown_reduction_is_named():
    with pytest.raises(ValueError, match="operation='min'"):
        distributed.all_reduce(torch.zeros(1), "min")


def _collectives():
    rank = distributed.rank()
    x = (torch.arange(4.0).reshape(2, 2) + 10 * rank).requires_grad_()
    gathered = distributed.gather_with_gradient(x)
    # Each rank has a loss of its own over all rows: weights 1..4 per row, times rank + 1.
    ((rank + 1) * torch.tensor([1.0, 2.0, 3.0, 4.0])[:, None] * gathered).sum().backward()
    value = torch.tensor([1.0 + rank])
    reduced = [distributed.all_reduce(value, operation) for operation in ("sum", "mean", "max")]
    return gathered.detach(), x.grad, torch.cat(reduced), distributed.broadcast(value, source=1), value


def test_two_ranks(gloo_pool):
    first, second = gloo_pool.run(_collectives)
    rows = torch.tensor([[0.0, 1], [2, 3], [10, 11], [12, 13]])
    assert torch.equal(first[0], rows)
    assert torch.equal(second[0], rows)
    # The gradient of a row is the sum over the ranks' losses: weight * (1 + 2).
    assert torch.equal(first[1], 3 * torch.tensor([[1.0, 1], [2, 2]]))
    assert torch.equal(second[1], 3 * torch.tensor([[3.0, 3], [4, 4]]))
    for rank, (_, _, reduced, broadcast, value) in enumerate((first, second)):
        assert reduced.tolist() == [3.0, 1.5, 2.0]
        assert broadcast.tolist() == [2.0]
        assert value.tolist() == [1.0 + rank]
