"""A sharded head in a whole training step: two ranks against one, clipping and checkpoints included."""

import copy

import pytest
import torch
from torch import nn

from facelib.losses import ArcFace, MarginSoftmax, ShardedMarginLoss
from facelib.utils import distributed
from ray_jobs.training.sharded_state import (
    clip_gradients,
    gather_state,
    keep_from_ddp,
    load_state,
    shards,
    share_overflow,
)

CLASSES, SIZE, BATCH = 7, 4, 12


class Method(nn.Module):
    """A backbone and a sharded head, as a method holds them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network = nn.Linear(6, SIZE)
        self.softmax = ShardedMarginLoss(ArcFace, SIZE, CLASSES, scale=8.0)

    def forward(self, images, labels):
        return self.softmax(self.network(images), labels)


def step(method, wrapped, optimizer, number, max_norm):
    """One training step on this rank's share of a batch that depends on `number`; returns the gradient norm."""
    generator = torch.Generator().manual_seed(number)
    images, labels = torch.randn(BATCH, 6, generator=generator), torch.randint(CLASSES, (BATCH,), generator=generator)
    share = BATCH // distributed.world_size()
    mine = slice(distributed.rank() * share, (distributed.rank() + 1) * share)
    optimizer.zero_grad()
    wrapped(images[mine], labels[mine]).backward()
    norm = clip_gradients(method, max_norm)
    optimizer.step()
    return norm.item()


def training(kind, state=None, first=0, last=3, max_norm=0.5):
    """Steps first..last−1, from a state or from the start -> (whole state on rank 0, gradient norms)."""
    method = Method()
    optimizer = (
        torch.optim.SGD(method.parameters(), lr=0.5, momentum=0.9)
        if kind == "sgd"
        else torch.optim.AdamW(method.parameters(), lr=0.01)
    )
    if state is not None:
        load_state(method, optimizer, copy.deepcopy(state))
    wrapped = method
    if distributed.world_size() > 1:
        keep_from_ddp(method)
        wrapped = nn.parallel.DistributedDataParallel(method, forward_sync_buffers=False)
    norms = [step(method, wrapped, optimizer, number, max_norm) for number in range(first, last)]
    return gather_state(method, optimizer), norms


def assert_equal_states(found, expected):
    for name, value in expected["method"].items():
        assert torch.allclose(found["method"][name], value, rtol=1e-4, atol=1e-6), name
    for index, entries in expected["optimizer"]["state"].items():
        for key, value in entries.items():
            assert torch.allclose(found["optimizer"]["state"][index][key], value, rtol=1e-4, atol=1e-6), (index, key)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_two_ranks_train_as_one_and_write_the_same_checkpoint(gloo_pool, kind):
    expected, norms = training(kind)
    (first, first_norms), (_, second_norms) = gloo_pool.run(training, kind)
    assert first_norms == pytest.approx(norms, rel=1e-4)
    assert first_norms == second_norms
    assert first["method"]["softmax.head.weight"].shape == (CLASSES, SIZE)
    assert_equal_states(first, expected)


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_checkpoint_of_two_ranks_continues_on_one_and_back(gloo_pool, kind):
    expected, _ = training(kind, last=4)
    (two, _), _ = gloo_pool.run(training, kind, None, 0, 2)
    one, _ = training(kind, two, 2, 3)
    (again, _), _ = gloo_pool.run(training, kind, one, 3, 4)
    assert_equal_states(again, expected)


def _overflow(rank):
    """Whether this rank's gradients are finite, after one of `rank`'s classes has overflowed."""
    method = Method()
    for p in method.parameters():
        p.grad = torch.ones_like(p)
    if distributed.rank() == rank:
        method.softmax.head.weight.grad[0, 0] = torch.nan
    share_overflow(method)
    return all(bool(p.grad.isfinite().all()) for p in method.parameters())


def test_an_overflow_in_one_shard_is_one_of_all_ranks(gloo_pool):
    assert gloo_pool.run(_overflow, 1) == [False, False]
    assert gloo_pool.run(_overflow, None) == [True, True]


def test_gathering_leaves_the_optimizer_as_it_is(gloo_pool):
    assert gloo_pool.run(_shapes_after_gathering) == [(3, 3), (4, 4)]


def _shapes_after_gathering():
    method = Method()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9)
    wrapped = method
    keep_from_ddp(method)
    wrapped = nn.parallel.DistributedDataParallel(method, forward_sync_buffers=False)
    step(method, wrapped, optimizer, 0, 1.0)
    gather_state(method, optimizer)
    weight = method.softmax.head.weight
    return len(weight), len(optimizer.state[weight]["momentum_buffer"])


def test_without_a_sharded_head_nothing_is_special():
    softmax = MarginSoftmax(ArcFace(SIZE, CLASSES))
    optimizer = torch.optim.SGD(softmax.parameters(), lr=0.1, momentum=0.9)
    softmax(torch.randn(5, SIZE), torch.arange(5)).backward()
    expected = torch.linalg.vector_norm(softmax.head.weight.grad)
    assert shards(softmax) == {}
    assert clip_gradients(softmax, 0.01) == pytest.approx(expected.item())
    assert torch.linalg.vector_norm(softmax.head.weight.grad) == pytest.approx(0.01, rel=1e-3)
    optimizer.step()
    states = gather_state(softmax, optimizer)
    fresh = MarginSoftmax(ArcFace(SIZE, CLASSES))
    load_state(fresh, torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9), states)
    assert torch.equal(fresh.head.weight, softmax.head.weight)


def test_a_state_saved_on_a_gpu_is_loaded_on_a_cpu():
    """Whether an optimizer is fused is of the device that it runs on."""
    method = nn.Linear(3, 2)
    for own, saved in ((None, True), (True, None)):
        states = gather_state(method, torch.optim.AdamW(method.parameters(), fused=saved))
        optimizer = torch.optim.AdamW(method.parameters(), fused=own)
        load_state(method, optimizer, states)
        assert [group["fused"] for group in optimizer.param_groups] == [own]
