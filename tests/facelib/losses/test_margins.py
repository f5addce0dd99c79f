"""Margin heads against formulas in float64, at the edges, and under autocast."""

import math

import pytest
import torch
import torch.nn.functional as F

from facelib.losses import ArcFace, CosFace, MagFace, MarginOutput, MarginSoftmax, ShardedMarginLoss

N, C, D = 12, 5, 8


def batch(seed=0, length=20.0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = length * F.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64))
    embeddings *= torch.rand(N, 1, generator=generator, dtype=torch.float64) + 0.5
    return embeddings, torch.randint(C, (N,), generator=generator)


def heads(**settings):
    torch.manual_seed(0)
    return [head(D, C, **settings).double() for head in (ArcFace, CosFace, MagFace)]


def plain_cosines(head, embeddings):
    return F.normalize(embeddings) @ F.normalize(head.weight).T


def test_smallest_example():
    head = ArcFace(embedding_size=8, num_classes=5)
    output = head(torch.randn(12, 8), torch.arange(12) % 5)
    assert output.cosines.shape == (12, 5)
    assert output.scale == 64
    assert output.penalty == 0


def expected_margin(head, cosine, length):
    angle = math.acos(cosine)
    if isinstance(head, CosFace):
        return cosine - head.margin
    if isinstance(head, ArcFace):
        return math.cos(angle + head.margin)
    length = min(max(length, 10.0), 110.0)
    margin = 0.45 + (0.8 - 0.45) * (length - 10) / 100
    return cosine if head.easy_margin and cosine <= 0 else math.cos(angle + margin)


@pytest.mark.parametrize("seed", range(4))
def test_values_row_by_row(seed):
    embeddings, labels = batch(seed)
    labels[3] = -1
    hard = MagFace(D, C, easy_margin=False).double()
    for head in [*heads(), hard]:
        output = head(embeddings, labels)
        expected = plain_cosines(head, embeddings).clone()
        for i, label in enumerate(labels.tolist()):
            if label >= 0:
                cosine = expected[i, label].item()
                assert output.target_cosines[i] == pytest.approx(cosine)
                expected[i, label] = expected_margin(head, cosine, float(embeddings[i].norm()))
        assert torch.allclose(output.cosines, expected, atol=1e-12)
        assert output.cosines.dtype == torch.float64
        if isinstance(head, MagFace):
            lengths = [min(max(float(x.norm()), 10.0), 110.0) for x, y in zip(embeddings, labels) if y >= 0]
            penalties = [35 * (a / 110**2 + 1 / a) for a in lengths]
            assert float(output.penalty) == pytest.approx(sum(penalties) / len(penalties))


@pytest.mark.parametrize("index", range(3))
def test_gradients_numerically(index):
    embeddings, labels = batch(length=30.0)
    labels[0] = -1
    head = heads()[index]

    def outputs(x, weight):
        output = torch.func.functional_call(head, {"weight": weight}, (x, labels))
        return output.cosines, torch.as_tensor(output.penalty) + 0 * x.sum()

    weight = head.weight.detach().requires_grad_()
    assert torch.autograd.gradcheck(outputs, (embeddings.requires_grad_(), weight), atol=1e-5)


def test_straight_through_keeps_values_and_drops_the_margin_from_the_gradient():
    embeddings, labels = batch()
    exact, direct = ArcFace(D, C).double(), ArcFace(D, C, gradient="straight_through").double()
    direct.load_state_dict(exact.state_dict())
    assert torch.allclose(exact(embeddings, labels).cosines, direct(embeddings, labels).cosines)
    weights = torch.linspace(1, 2, N * C, dtype=torch.float64).reshape(N, C)
    (direct(embeddings, labels).cosines * weights).sum().backward()
    (plain_cosines(exact, embeddings) * weights).sum().backward()
    assert torch.allclose(direct.weight.grad, exact.weight.grad)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_embedding_on_its_class_weight_has_finite_gradients(sign, dtype):
    for head in heads():
        head = head.to(dtype)
        weight = head.weight.detach()
        # Exactly parallel rows, by rounding on both sides of ±1, and rows a hair apart.
        embeddings = torch.cat([sign * 37.0 * weight, sign * weight * (1 + 1e-6 * torch.randn(C, D, dtype=dtype))])
        embeddings.requires_grad_()
        output = head(embeddings, torch.arange(2 * C) % C)
        (64 * output.cosines).sum().backward()
        assert output.cosines.isfinite().all()
        assert embeddings.grad.isfinite().all()
        assert head.weight.grad.isfinite().all()


def test_zero_embedding_has_finite_gradients():
    for head in heads():
        embeddings = torch.zeros(2, D, dtype=torch.float64, requires_grad=True)
        output = head(embeddings, torch.tensor([0, 1]))
        (output.cosines.sum() + output.penalty).backward()
        assert embeddings.grad.isfinite().all()


def test_autocast_computes_in_float32():
    embeddings, labels = batch()
    for head in heads():
        head = head.float()
        rounded = embeddings.bfloat16()
        expected = head(rounded.float(), labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = head(rounded, labels)
        assert output.cosines.dtype == torch.float32
        assert torch.equal(output.cosines, expected.cosines)
        assert torch.equal(torch.as_tensor(output.penalty), torch.as_tensor(expected.penalty))


def test_accuracy_ignores_margin_and_unlabeled_rows():
    head = ArcFace(2, 3)
    # Classes at 0°, 40° and 200°: with a margin of 0.5 rad (29°) on its own class, rows 0 and 2 lose.
    angles = torch.tensor([0.0, 40.0, 200.0]).deg2rad()
    head.weight.data = torch.stack([angles.cos(), angles.sin()], dim=1)
    angles = torch.tensor([10.0, 5.0, 30.0, 175.0, 0.0, 20.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    # Row 3: its own class (0°) is 175° away, where adding the margin RAISES the cosine: still wrong.
    labels = torch.tensor([0, 1, 1, 0, -1, -1])
    output = head(embeddings, labels)
    assert output.accuracy(labels) == 0.5
    assert output.cosines.argmax(dim=1)[:3].tolist() == [1, 0, 0]
    assert output.accuracy(torch.full((6,), -1)).isnan()
    with pytest.raises(ValueError, match="target_cosines=None"):
        MarginOutput(output.cosines, 64.0).accuracy(labels)


@pytest.mark.parametrize("module", [False, True], ids=["head", "module"])
def test_top_5_accuracy_is_that_of_the_sorted_cosines(module):
    generator = torch.Generator().manual_seed(0)
    head = CosFace(8, 30, margin=0.4)
    embeddings, labels = torch.randn(60, 8, generator=generator), torch.arange(60) % 30
    # As topk of the plain cosines finds it.
    cosines = torch.nn.functional.normalize(embeddings) @ torch.nn.functional.normalize(head.weight.detach()).T
    for top in (1, 5):
        expected = (cosines.topk(top).indices == labels[:, None]).any(dim=1).float().mean().item()
        if module:
            softmax = MarginSoftmax(head)
            softmax(embeddings, labels)
            found = {1: softmax.accuracy, 5: softmax.accuracy_top5}[top]
        else:
            found = head(embeddings, labels).accuracy(labels, top)
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize("unified", [False, True], ids=["head", "sharded"])
def test_accuracy_counts_what_is_not_a_number_as_wrong(unified):
    vectors = torch.eye(4).requires_grad_(False)

    def accuracy(embeddings, weight):
        labels = torch.arange(4)
        if unified:
            loss = ShardedMarginLoss(CosFace, 4, 4, whisker=None)
            loss.head.weight.data = weight
            loss(embeddings, labels)
            return loss.accuracy.item()
        head = CosFace(4, 4)
        head.weight.data = weight
        return head(embeddings, labels).accuracy(labels).item()

    assert accuracy(vectors, vectors.clone()) == 1
    one = vectors.clone()
    one[2] = torch.nan
    assert accuracy(one, vectors.clone()) == 0.75
    assert accuracy(vectors, one) == 0  # A class that is not a number may be above every other.
    assert accuracy(torch.full((4, 4), torch.nan), vectors.clone()) == 0


@pytest.mark.parametrize(
    ("head", "setting", "value"),
    [
        (ArcFace, "embedding_size", 0),
        (CosFace, "num_classes", -1),
        (ArcFace, "scale", 0.0),
        (ArcFace, "margin", 4.0),
        (ArcFace, "gradient", "none"),
        (CosFace, "weight_init", "kaiming"),
        (CosFace, "margin", -0.1),
        (MagFace, "l_margin", 0.9),
        (MagFace, "u_margin", 3.5),
        (MagFace, "l_a", 0.0),
        (MagFace, "u_a", 5.0),
        (MagFace, "lambda_g", -1.0),
    ],
)
def test_bad_setting_is_named(head, setting, value):
    with pytest.raises(ValueError, match=f"{setting}={value!r}"):
        head(**{"embedding_size": D, "num_classes": C, setting: value})


@pytest.mark.parametrize("head", [ArcFace, CosFace, MagFace])
def test_first_class_weights(head):
    torch.manual_seed(0)
    normal, xavier, unit = (head(64, 1000, weight_init=name).weight.detach() for name in ("normal", "xavier", "unit"))
    assert float(normal.std()) == pytest.approx(0.01, rel=0.02)
    expected = torch.nn.init.xavier_uniform_(torch.empty(1000, 64))
    assert float(xavier.std()) == pytest.approx(float(expected.std()), rel=0.02)
    assert float(xavier.abs().max()) == pytest.approx((6 / 1064) ** 0.5, rel=0.01)
    assert torch.allclose(unit.norm(dim=1), torch.ones(1000))


def test_bad_batches_are_named():
    head = ArcFace(D, C)
    with pytest.raises(ValueError, match=r"label 5 is outside −1..4: num_classes=5"):
        head(torch.randn(2, D), torch.tensor([0, 5]))
    with pytest.raises(ValueError, match="label -2 is outside"):
        head(torch.randn(2, D), torch.tensor([0, -2]))
    with pytest.raises(ValueError, match=r"\[2, 9\] do not fit a head of embedding_size=8"):
        head(torch.randn(2, 9), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"labels of shape \[3\], expected \[2\]"):
        head(torch.randn(2, D), torch.tensor([0, 1, 2]))
