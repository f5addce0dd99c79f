"""DistributedDataParallel on two ranks, and encoders compiled to one graph each."""

import pytest
import torch
from torch import nn

from facelib.config import TrainSettings, change_settings, load_settings
from facelib.models import build_backbone
from ray_jobs.training.methods import METHODS
from ray_jobs.training.parallel import compile_encoders, distribute

TINY = {
    "model.name": "iresnet",
    "model.embedding_size": 16,
    "model.options": {"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2},
    "ssl.queue_size": 32,
}


def settings(**changes):
    return change_settings(load_settings(None, []), {**TINY, **changes}, "test")


def images(views, count):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (views, count, 3, 112, 112), dtype=torch.uint8, generator=generator)


class Linear(nn.Module):
    """A method as DDP sees it: some parameters learn, some do not, one module runs twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.network, self.frozen = nn.Linear(6, 4), nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        return {"loss": (self.frozen(self.network(x)) + self.network(2 * x)).square().mean()}


def _trained(train, rows):
    model = Linear()
    wrapped = distribute(model, train, torch.device("cpu"))
    rank, count = torch.distributed.get_rank(), len(rows) // 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad(set_to_none=True)
        wrapped(rows[rank * count : (rank + 1) * count])["loss"].backward()
        optimizer.step()
    return model.network.weight.detach()


@pytest.mark.parametrize(("compression", "tolerance"), [("none", 1e-6), ("bfloat16", 2e-2)])
def test_two_ranks_learn_what_one_learns_from_the_whole_batch(gloo_pool, compression, tolerance):
    rows = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))
    first, second = gloo_pool.run(_trained, TrainSettings(gradient_compression=compression), rows)
    assert torch.equal(first, second)
    model = Linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(rows)["loss"].backward()
        optimizer.step()
    assert (first - model.network.weight).abs().max() < tolerance
    if compression != "none":  # it was rounded
        assert (first - model.network.weight).abs().max() > 1e-6


def _method_trained(name, changes):
    torch.manual_seed(0)
    method = METHODS[name](settings(**changes), 8)
    wrapped = distribute(method, TrainSettings(), torch.device("cpu"))
    rank = torch.distributed.get_rank()
    views = method.sampling.views
    losses = []
    for _ in range(2):
        wrapped.zero_grad(set_to_none=True)
        output = wrapped(images(views, 8)[:, rank * 4 : rank * 4 + 4], torch.arange(rank * 4, rank * 4 + 4))
        output.loss.backward()
        losses.append(output.loss.item())
    return losses, next(method.backbone.parameters()).grad


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ssl", {}),
        ("ssl", {"ssl.options": {"symmetric": True, "batch_negatives": True}}),
        ("unpg", {}),
        ("unpg", {"unpg.shard_head": True}),
    ],
    ids=str,
)
def test_methods_are_distributed(gloo_pool, name, changes):
    (first, first_gradient), (second, second_gradient) = gloo_pool.run(_method_trained, name, changes)
    if "unpg.shard_head" in changes:  # its loss is that of the global batch
        assert first == pytest.approx(second)
    else:
        assert first != second
    assert first_gradient.abs().sum() > 0
    assert torch.equal(first_gradient, second_gradient)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_compiled_encoders_give_the_same_step(name):
    outputs = []
    for compiled in (False, True):
        torch.manual_seed(0)
        method = METHODS[name](settings(), 8)
        names = list(method.state_dict())
        if compiled:
            compile_encoders(method, backend="aot_eager")
        output = method(images(method.sampling.views, 4), torch.arange(4))
        output.loss.backward()
        outputs.append((output.loss.detach(), next(method.backbone.parameters()).grad))
        assert list(method.state_dict()) == names
    (loss, gradient), (compiled_loss, compiled_gradient) = outputs
    assert torch.allclose(loss, compiled_loss, rtol=1e-4)
    assert (gradient - compiled_gradient).abs().max() < 1e-3 * gradient.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone", [("iresnet18", {}), ("iresnet18", {"use_se": True, "dropout": 0.4}), ("mobilefacenet", {})], ids=str
)
def test_an_encoder_is_one_graph(backbone):
    name, options = backbone
    encoder = build_backbone(name, embedding_size=16, **options)
    with torch.autocast("cpu", torch.bfloat16):
        explained = torch._dynamo.explain(encoder)(torch.zeros(2, 3, 112, 112))
    torch._dynamo.reset()
    assert (explained.graph_count, explained.graph_break_count) == (1, 0), explained.break_reasons
