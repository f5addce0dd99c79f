"""The tool of tests/support/fake_cuda.py: what it refuses, what it counts, and that its backward is autograd's."""

import copy

import pytest
import torch
import torch.distributed as dist
from support.fake_cuda import HostWaitsError, StepWatch, backward, fake_cuda
from torch import nn


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (lambda x: x.sum().item(), "reads a value from the device"),
        (lambda x: bool((x > 0).any()), "reads a value from the device"),
        (lambda x: x[x > 0], "shape that only the device knows"),
        (lambda x: torch.bincount(x[:, 0].long(), minlength=9), "shape that only the device knows"),
        (lambda x: x.cpu(), "copied from the device"),
        (lambda x: torch.tensor([1.0], device="cuda"), "without non_blocking"),
        (lambda x: x.new_tensor(1.0), "without non_blocking"),
        (lambda x: x[torch.tensor([1, 2])], "mixes devices"),
    ],
)
def test_what_waits_for_the_device_is_refused(code, reason):
    with fake_cuda():
        x = torch.randn(4, 3, device="cuda")
        with pytest.raises(HostWaitsError, match=reason), StepWatch():
            code(x)


def test_operations_and_collectives_are_counted():
    with fake_cuda(ranks=4):
        x = torch.randn(4, 3, device="cuda")
        host = torch.ones(4, 3)
        with StepWatch() as step:
            everybody = torch.empty(16, 3, device="cuda")
            dist.all_gather_single(everybody, x.T.T)
            (everybody[:4] + host.pin_memory().to("cuda", non_blocking=True)).sum()
    assert step.operations == {"_to_copy": 1, "add": 1, "sum": 1}
    assert sum(step.collectives.values()) == 1
    assert not dist.is_initialized()


def test_autocast_and_copies_of_modules():
    with fake_cuda():
        model = copy.deepcopy(nn.Linear(3, 2)).to("cuda")
        with StepWatch(), torch.autocast("cuda", torch.bfloat16):
            assert model(torch.randn(4, 3, device="cuda")).dtype == torch.bfloat16
        assert model.weight.device.type == "cuda"


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


def test_backward_in_python_is_that_of_autograd():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(36, 5))
    images = torch.randn(6, 3, 5, 5)

    def loss():
        embeddings = network(images)
        return (Twice.apply(embeddings) @ embeddings.T).logsumexp(1).mean() + embeddings[:, 0].mean()

    loss().backward()
    expected = [p.grad for p in network.parameters()]
    network.zero_grad()
    backward(loss())
    for parameter, gradient in zip(network.parameters(), expected):
        assert torch.allclose(parameter.grad, gradient, atol=1e-6)
