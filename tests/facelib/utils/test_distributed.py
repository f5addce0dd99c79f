"""Collectives without a process group and on two ranks."""

import numpy as np
import pytest
import torch
from support.fake_cuda import StepWatch, fake_cuda

from facelib.utils import distributed


def test_one_process_needs_no_group():
    x = torch.arange(6.0).reshape(3, 2).requires_grad_()
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert torch.equal(distributed.gather(x), x)
    assert not distributed.gather(x).requires_grad
    assert distributed.gather_with_gradient(x) is x
    assert torch.equal(distributed.broadcast(x), x)
    assert distributed.broadcast_object({"a": 1}) == {"a": 1}
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
    assert distributed.broadcast_object({"rank": rank}, source=1) == {"rank": 1}
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


def _exchange(order):
    images = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).view(4, 3, 2, 2) + 100 * distributed.rank()
    images = images.contiguous(memory_format=torch.channels_last)
    return distributed.exchange_rows(images, order), distributed.gather(images)


@pytest.mark.parametrize("seed", range(4))
def test_rows_are_exchanged(gloo_pool, seed):
    order = np.random.default_rng(seed).permutation(8)
    (first, everything), (second, _) = gloo_pool.run(_exchange, order)
    assert torch.equal(torch.cat([first, second]), everything[order])
    assert first.dtype == torch.uint8
    assert first.is_contiguous(memory_format=torch.channels_last)


def test_rows_of_one_process_are_put_in_order():
    rows, order = torch.randn(5, 2), np.array([3, 0, 4, 1, 2])
    assert torch.equal(distributed.exchange_rows(rows, order), rows[order])


def test_collectives_on_a_gpu_do_not_make_the_host_wait():
    with fake_cuda(ranks=2):
        x = torch.randn(4, 3, device="cuda", requires_grad=True)
        order = np.random.default_rng(0).permutation(8)
        with StepWatch() as step:
            assert distributed.exchange_rows(x, order).shape == (4, 3)
            distributed.gather_with_gradient(x).sum().backward()
    assert x.grad.shape == (4, 3)
    assert sum(step.collectives.values()) == 3
