"""UNPG against the published implementation's numbers, a brute-force float64 form, and itself on two ranks."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.fake_cuda import StepWatch, fake_cuda
from torch import nn

from facelib.losses import (
    ArcFace,
    CosFace,
    MagFace,
    MarginOutput,
    MarginSoftmax,
    UnifiedNegativeLoss,
    filter_negatives,
    unified_negatives,
)
from facelib.losses.unified_negatives import inside_whiskers, negative_logsumexp
from facelib.utils import distributed

GOLDEN = Path(__file__).parents[2] / "golden" / "heads_dev.npz"
HEADS = {"arcface": ArcFace, "cosface": CosFace, "magface": MagFace}


def test_smallest_example():
    head, loss = ArcFace(embedding_size=8, num_classes=5), UnifiedNegativeLoss(whisker=1.5)
    embeddings, labels = torch.randn(12, 8, requires_grad=True), torch.arange(12) % 5
    value = loss(head(embeddings, labels), embeddings, labels)
    value.backward()
    assert value.shape == ()
    assert embeddings.grad.isfinite().all()


def golden_cases():
    with np.load(GOLDEN) as golden:
        return sorted({key.rsplit("/", 1)[0] for key in golden if "/" in key})


@pytest.mark.parametrize("case", golden_cases())
def test_published_implementation(case):
    golden = np.load(GOLDEN)
    name, kind = case.split("/")
    whisker = None if kind == "plain" else float(kind.removeprefix("unpg_wisk"))
    embeddings, labels = torch.from_numpy(golden["x"]).requires_grad_(), torch.from_numpy(golden["y"])

    def stored_weight(key):  # MagFace is published with its weights transposed
        weight = torch.from_numpy(golden[f"{case}/{key}"])
        return weight.T if name == "magface" else weight

    head, loss = HEADS[name](32, 20), UnifiedNegativeLoss(whisker)
    head.weight.data.copy_(stored_weight("W"))
    output = head(embeddings, labels)
    value = loss(output, embeddings, labels)
    value.backward()
    assert value.item() == pytest.approx(float(golden[f"{case}/loss"]), rel=1e-6)
    for found, expected in (
        (embeddings.grad, torch.from_numpy(golden[f"{case}/grad_x"])),
        (head.weight.grad, stored_weight("grad_W")),
    ):
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    if case == "magface/plain":
        assert output.penalty.item() == pytest.approx(float(golden[f"{case}/loss_g_times_lambda"]), rel=1e-6)
    if f"{case}/kept_negatives" in golden:
        unit = F.normalize(embeddings.detach())
        pairs = (labels[:, None] != labels).triu(diagonal=1)
        assert int(inside_whiskers(unit @ unit.T, pairs, whisker).sum()) == int(golden[f"{case}/kept_negatives"])
        assert int(inside_whiskers(unit @ unit.T, pairs, 1e6).sum()) == int(golden[f"{case}/all_negatives"])


def plain_loop_filter(values, whisker):
    ordered = sorted(values)
    first, third = ordered[int(0.25 * len(values))], ordered[int(0.75 * len(values))]
    reach = whisker * (third - first)
    return [value for value in values if first - reach <= value <= third + reach]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 8, 100, 1001])
@pytest.mark.parametrize("whisker", [0.0, 0.5, 1.0, 1.5])
def test_filter_against_plain_loop(count, whisker):
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator, dtype=torch.float64) ** 3
    assert filter_negatives(values, whisker).tolist() == plain_loop_filter(values.tolist(), whisker)


def test_filter_of_nothing_and_of_equal_values():
    assert filter_negatives(torch.empty(0), 1.5).shape == (0,)
    assert filter_negatives(torch.full((9,), 0.3), 0.0).tolist() == torch.full((9,), 0.3).tolist()


def brute_force(cosines, scale, penalty, embeddings, labels, whisker):
    """The paper's formula, row by row: one concatenated softmax each."""
    labels = labels.tolist()
    negatives = []
    for a in range(len(labels)):
        for b in range(a + 1, len(labels)):
            if labels[a] != labels[b] and min(labels[a], labels[b]) >= 0:
                x, y = embeddings[a], embeddings[b]
                negatives.append((x @ y) / (x.norm() * y.norm()))
    if negatives and whisker is not None:
        ordered = sorted(value.item() for value in negatives)
        first, third = ordered[int(0.25 * len(ordered))], ordered[int(0.75 * len(ordered))]
        low, high = first - whisker * (third - first), third + whisker * (third - first)
        negatives = [value for value in negatives if low <= value.item() <= high]
    rows = []
    for i, label in enumerate(labels):
        if label >= 0:
            row = cosines[i]
            if negatives and whisker is not None:
                row = torch.cat([row, torch.stack(negatives)])
            rows.append(-torch.log_softmax(scale * row, dim=0)[label])
    return torch.stack(rows).mean() + penalty if rows else None


@pytest.mark.parametrize("seed", range(30))
def test_against_brute_force(seed):
    random = np.random.default_rng(seed)
    n, c, d = (int(random.integers(*bounds)) for bounds in ((1, 14), (1, 7), (2, 9)))
    whisker = [None, 0.5, 1.0, 1.5, 2.0][seed % 5]
    scale = float(random.choice([4.0, 64.0]))
    embeddings = torch.from_numpy(20 * random.standard_normal((n, d))).requires_grad_()
    labels = torch.from_numpy(random.integers(-1, c, n))
    labels[0] = 0
    head = list(HEADS.values())[seed % 3](d, c, scale=scale).double()
    head.weight.data.copy_(torch.from_numpy(random.standard_normal((c, d))))
    variables = (embeddings, head.weight)

    output = head(embeddings, labels)
    value = UnifiedNegativeLoss(whisker)(output, embeddings, labels)
    gradients = torch.autograd.grad(value, variables, retain_graph=True)
    expected = brute_force(output.cosines, scale, output.penalty, embeddings, labels, whisker)
    expected_gradients = torch.autograd.grad(expected, variables)
    assert torch.allclose(value, expected, rtol=1e-12)
    for found, wanted in zip(gradients, expected_gradients):
        assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("labels", [[2, 2, 2], [1], [-1, 3, -1], [-1, -1, -1]])
def test_batch_without_negatives_is_the_plain_loss(labels):
    labels = torch.tensor(labels)
    torch.manual_seed(0)
    embeddings = torch.randn(len(labels), 8, requires_grad=True)
    head = ArcFace(8, 5)
    values = []
    for whisker in (1.5, None):
        value = UnifiedNegativeLoss(whisker)(head(embeddings, labels), embeddings, labels)
        value.backward()
        values.append(value.item())
    assert values[0] == values[1]
    assert math.isfinite(values[0])
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("labels", [[2, 2, 2], [1], [-1, 3, -1]])
def test_logsumexp_of_no_pairs(labels):
    embeddings = torch.randn(len(labels), 8, requires_grad=True)
    value = negative_logsumexp(embeddings, torch.tensor(labels), 1.5, 64.0)
    value.backward()
    assert value == -math.inf
    assert embeddings.grad.abs().sum() == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 100])
@pytest.mark.parametrize("whisker", [0.0, 0.5, 1.5])
def test_one_sort_on_a_device_keeps_what_selection_on_the_host_keeps(monkeypatch, count, whisker):
    """The form for GPUs, run here: it sees a device that is not called `cpu`."""
    values = torch.randn(10, 10, generator=torch.Generator().manual_seed(count)) ** 3
    valid = (torch.arange(100) < count).view(10, 10).flip(1)
    on_host = inside_whiskers(values, valid, whisker)
    monkeypatch.setattr(unified_negatives, "_quartiles", unified_negatives._quartiles_by_sort)
    assert torch.equal(inside_whiskers(values, valid, whisker), on_host)
    assert on_host.sum() <= count


def test_takes_an_output_without_target_cosines():
    cosines = torch.tensor([[0.5, 0.1], [0.2, 0.4]])
    value = UnifiedNegativeLoss(whisker=None)(MarginOutput(cosines, 2.0), torch.randn(2, 3), torch.tensor([0, 1]))
    assert torch.allclose(value, F.cross_entropy(2 * cosines, torch.tensor([0, 1])))


def test_autocast_computes_in_float32():
    torch.manual_seed(0)
    embeddings, labels = torch.randn(16, 8).bfloat16(), torch.arange(16) % 5
    head, loss = ArcFace(8, 5), UnifiedNegativeLoss()
    expected = loss(head(embeddings.float(), labels), embeddings.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(head(embeddings, labels), embeddings, labels)
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@pytest.mark.parametrize("whisker", [-0.1, math.nan, math.inf])
def test_bad_whisker_is_named(whisker):
    with pytest.raises(ValueError, match=f"whisker={whisker}"):
        UnifiedNegativeLoss(whisker=whisker)
    with pytest.raises(ValueError, match=f"whisker={whisker}"):
        filter_negatives(torch.zeros(3), whisker)


def test_bad_similarities_are_named():
    with pytest.raises(ValueError, match=r"similarities of shape \[2, 3\]"):
        filter_negatives(torch.zeros(2, 3), 1.0)


class _Model(nn.Module):
    def __init__(self, name, batch_norm):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Linear(6, 8), *[nn.BatchNorm1d(8)] * batch_norm)
        self.head = HEADS[name](8, 5)

    def forward(self, images, labels):
        embeddings = self.backbone(images)
        return self.head(embeddings, labels), embeddings


def _loss_and_gradients(name, whisker, labels, batch_norm=False):
    """Of this rank's share of one batch, under DDP; with one process, of all of it."""
    ranks, rank, count = distributed.world_size(), distributed.rank(), len(labels)
    mine = slice(rank * count // ranks, (rank + 1) * count // ranks)
    images = 20 * torch.randn(count, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor(labels)
    model = _Model(name, batch_norm)
    wrapped = nn.parallel.DistributedDataParallel(model) if ranks > 1 else model
    output, embeddings = wrapped(images[mine], labels[mine])
    loss = UnifiedNegativeLoss(whisker)(output, embeddings, labels[mine])
    loss.backward()
    return loss.item(), {key: parameter.grad for key, parameter in model.named_parameters()}


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whisker", [None, 0.5, 1.5])
@pytest.mark.parametrize(
    "labels",
    [[0, 1, 2, 3, 4, 0, 1, 2, 2, 3], [0, 1, -1, 3, -1, -1, 1, 2, 2, 3], [-1] * 5 + [0, 1, 2, 3, 3], [1] * 10],
    ids=["all", "some", "one rank only", "no negatives"],
)
def test_two_ranks_equal_one_with_the_whole_batch(gloo_pool, name, whisker, labels):
    expected_loss, expected_gradients = _loss_and_gradients(name, whisker, labels)
    (first_loss, first_gradients), (second_loss, second_gradients) = gloo_pool.run(
        _loss_and_gradients, name, whisker, labels
    )
    assert (first_loss + second_loss) / 2 == pytest.approx(expected_loss, rel=1e-5)
    for key, expected in expected_gradients.items():
        assert torch.equal(first_gradients[key], second_gradients[key])
        assert (first_gradients[key] - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-7, key


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whisker", [None, 1.5])
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_step_on_a_gpu_waits_for_nothing(name, whisker, ranks):
    with fake_cuda(ranks):
        model = MarginSoftmax(HEADS[name](8, 5), whisker).to("cuda")
        embeddings = torch.randn(12, 8, device="cuda", requires_grad=True)
        labels = torch.zeros(12, dtype=torch.long, device="cuda")
        with StepWatch() as step:
            model(embeddings, labels).backward()
    assert embeddings.grad.shape == (12, 8)
    assert model.head.weight.grad.shape == (5, 8)
    # Labels, and for the pairs embeddings; the gradient of these is summed.
    pairs = whisker is not None
    assert sum(step.collectives.values()) == (0 if ranks == 1 else 3 if pairs else 1)
    assert step.operations["sort"] == pairs


@pytest.mark.gpu
@pytest.mark.parametrize("labels", [list(range(12)), [0, 1, -1, 3] * 3, [2] * 12])
def test_gpu_gives_the_same_loss_and_gradient(labels):
    torch.manual_seed(0)
    results = []
    for device in ("cpu", "cuda"):
        embeddings = torch.linspace(-3, 3, 96, dtype=torch.float64, device=device).sin().view(12, 8).requires_grad_()
        value = negative_logsumexp(embeddings, torch.tensor(labels, device=device), 1.0, 64.0)
        value.backward()
        results.append((value.detach().cpu(), embeddings.grad.cpu()))
    assert torch.allclose(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1])


def test_two_ranks_differ_from_one_with_the_whole_batch_where_batchnorm_is(gloo_pool):
    """Its statistics are each rank's own: what docs/methods.md says."""
    arguments = ("arcface", 1.5, [0, 1, 2, 3, 4, 0, 1, 2, 2, 3], True)
    expected_loss, expected_gradients = _loss_and_gradients(*arguments)
    results = gloo_pool.run(_loss_and_gradients, *arguments)
    assert sum(loss for loss, _ in results) / 2 != pytest.approx(expected_loss, rel=1e-2)
    difference = results[0][1]["head.weight"] - expected_gradients["head.weight"]
    assert difference.abs().max() > 0.1 * expected_gradients["head.weight"].abs().max()
