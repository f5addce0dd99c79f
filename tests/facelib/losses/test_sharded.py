"""The head split over two ranks against the unsharded one, and its checkpoints on one and two ranks."""

import pytest
import torch
from support.fake_cuda import StepWatch, fake_cuda
from torch import nn

from facelib.losses import ArcFace, CosFace, MagFace, ShardedMarginLoss, UnifiedNegativeLoss
from facelib.losses.sharded import _first_weights
from facelib.utils import distributed

HEADS = {"arcface": ArcFace, "cosface": CosFace, "magface": MagFace}
LABELS = [0, 1, 2, 6, 4, 0, 5, 2, 2, 3]


def test_smallest_example():
    loss = ShardedMarginLoss(ArcFace, embedding_size=8, num_classes=5, margin=0.4)
    embeddings = torch.randn(12, 8, requires_grad=True)
    value = loss(embeddings, torch.arange(12) % 5)
    value.backward()
    assert value.shape == ()
    assert embeddings.grad.isfinite().all()
    assert loss.head.margin == 0.4


def images_of(count):
    return 20 * torch.randn(count, 6, generator=torch.Generator().manual_seed(1))


def _unsharded(name, whisker, labels):
    torch.manual_seed(0)
    backbone = nn.Linear(6, 8)
    head = HEADS[name](8, 7)
    head.load_state_dict({"weight": ShardedMarginLoss(HEADS[name], 8, 7).head.weight})
    labels = torch.tensor(labels)
    embeddings = backbone(images_of(len(labels)))
    loss = UnifiedNegativeLoss(whisker)(head(embeddings, labels), embeddings, labels)
    loss.backward()
    return loss.item(), backbone.weight.grad, head.weight.grad


def _sharded(name, whisker, labels):
    torch.manual_seed(0)
    ranks, rank, count = distributed.world_size(), distributed.rank(), len(labels)
    mine = slice(rank * count // ranks, (rank + 1) * count // ranks)
    backbone = nn.Linear(6, 8)
    wrapped = nn.parallel.DistributedDataParallel(backbone) if ranks > 1 else backbone
    sharded = ShardedMarginLoss(HEADS[name], embedding_size=8, num_classes=7, whisker=whisker)
    loss = sharded(wrapped(images_of(count)[mine]), torch.tensor(labels)[mine])
    loss.backward()
    return loss.item(), backbone.weight.grad, sharded.head.weight.grad


def close(found, expected):
    return (found - expected).abs().max() < 1e-5 * expected.abs().max() + 1e-7


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whisker", [None, 1.5])
def test_one_rank_equals_the_unsharded_head(name, whisker):
    expected_loss, expected_backbone, expected_head = _unsharded(name, whisker, LABELS)
    loss, backbone, head = _sharded(name, whisker, LABELS)
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert close(backbone, expected_backbone)
    assert close(head, expected_head)


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("whisker", [None, 1.5])
@pytest.mark.parametrize(
    "labels",
    [LABELS, [0, 1, -1, 6, -1, -1, 5, 2, 2, 3], [1, 0, 2, 1, 0, 0], [-1] * 4],
    ids=["all", "some unlabeled", "classes of one rank only", "none labeled"],
)
def test_two_ranks_equal_the_unsharded_head(gloo_pool, name, whisker, labels):
    expected_loss, expected_backbone, expected_head = _unsharded(name, whisker, labels)
    (first_loss, first_backbone, first_head), (second_loss, second_backbone, second_head) = gloo_pool.run(
        _sharded, name, whisker, labels
    )
    assert first_loss == pytest.approx(expected_loss, rel=1e-5)
    assert second_loss == pytest.approx(expected_loss, rel=1e-5)
    assert torch.equal(first_backbone, second_backbone)
    assert close(first_backbone, expected_backbone)
    assert (len(first_head), len(second_head)) == (3, 4)
    assert close(torch.cat([first_head, second_head]), expected_head)


def _accuracies():
    torch.manual_seed(0)
    ranks, rank = distributed.world_size(), distributed.rank()
    embeddings, labels = torch.randn(40, 8), torch.arange(40) % 23
    sharded = ShardedMarginLoss(ArcFace, embedding_size=8, num_classes=23)
    mine = slice(rank * 40 // ranks, (rank + 1) * 40 // ranks)
    sharded(embeddings[mine], labels[mine])
    head = ArcFace(8, 23)
    head.load_state_dict({"weight": _first_weights(0, 23, (23, 8), 0)})
    expected = [head(embeddings, labels).accuracy(labels, top).item() for top in (1, 5)]
    return [sharded.accuracy.item(), sharded.accuracy_top5.item()], expected


def test_accuracies_are_those_of_all_classes_and_rows(gloo_pool):
    for found, expected in [_accuracies(), *gloo_pool.run(_accuracies)]:
        assert found == pytest.approx(expected)
        assert 0 < expected[0] < expected[1] < 1


def _load_and_gather(weight):
    loss = ShardedMarginLoss(ArcFace, embedding_size=8, num_classes=7, seed=3)
    first = loss.gather_classes(loss.head.weight)
    if weight is not None:
        loss.head.weight.data.copy_(loss.own_classes(weight))
    return first, loss.gather_classes(loss.head.weight), loss.head.weight.detach()


def test_checkpoints_do_not_depend_on_the_number_of_ranks(gloo_pool):
    alone, _, _ = _load_and_gather(None)
    weight = torch.randn(7, 8)
    (first, loaded, first_shard), (nothing, also_nothing, second_shard) = gloo_pool.run(_load_and_gather, weight)
    assert torch.equal(first, alone)
    assert torch.equal(loaded, weight)
    assert (nothing, also_nothing) == (None, None)
    assert torch.equal(torch.cat([first_shard, second_shard]), weight)


def test_first_weights_continue_over_block_borders():
    loss = ShardedMarginLoss(CosFace, embedding_size=2, num_classes=9000)
    assert loss.head.weight.shape == (9000, 2)
    assert 0.0095 < loss.head.weight.std() < 0.0105
    assert len(loss.head.weight.unique(dim=0)) == 9000


def first_weights():
    return ShardedMarginLoss(CosFace, 8, 100, seed=3, weight_init="xavier").head.weight.detach()


def test_first_weights_depend_on_all_classes_and_not_on_the_ranks(gloo_pool):
    """Xavier's bound is that of all classes: each of two ranks has half of what one rank has."""
    whole = first_weights()
    assert whole.abs().max().item() == pytest.approx((6 / 108) ** 0.5, rel=0.02)
    assert torch.equal(torch.cat(gloo_pool.run(first_weights)), whole)


def test_sampling_compares_with_true_classes_and_a_share_of_the_others():
    loss = ShardedMarginLoss(ArcFace, embedding_size=8, num_classes=100, whisker=None, sample_rate=0.2)
    labels = torch.tensor([3, 97, 3, -1, 50])
    seen = []
    for _ in range(3):
        embeddings = torch.randn(5, 8)
        loss.zero_grad()
        value = loss(embeddings, labels)
        value.backward()
        compared = loss.head.weight.grad.abs().sum(dim=1).nonzero()[:, 0].tolist()
        assert len(compared) == 20
        assert {3, 97, 50} <= set(compared)
        # The same value as a head of the compared classes alone.
        small = ArcFace(8, 20)
        small.weight.data.copy_(loss.head.weight[compared])
        small_labels = torch.tensor([compared.index(y) if y >= 0 else -1 for y in labels.tolist()])
        expected = UnifiedNegativeLoss(None)(small(embeddings, small_labels), embeddings, small_labels)
        assert torch.allclose(value, expected)
        seen.append(tuple(compared))
    assert len(set(seen)) == 3
    loss.eval()
    loss.zero_grad()
    loss(embeddings, labels).backward()
    assert (loss.head.weight.grad.abs().sum(dim=1) > 0).all()


def test_more_true_classes_than_the_share_are_all_compared():
    loss = ShardedMarginLoss(ArcFace, embedding_size=8, num_classes=10, sample_rate=0.1)
    loss(torch.randn(6, 8), torch.arange(6)).backward()
    assert (loss.head.weight.grad.abs().sum(dim=1) > 0).nonzero()[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def _sampled_training():
    loss = ShardedMarginLoss(CosFace, embedding_size=8, num_classes=20, sample_rate=0.5)
    rank, losses = distributed.rank(), []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        embeddings, labels = torch.randn(8, 8, generator=generator), torch.randint(20, (8,), generator=generator)
        mine = slice(rank * 4, rank * 4 + 4)
        losses.append(loss(embeddings[mine], labels[mine]).item())
    return losses


def test_sampling_on_two_ranks_gives_one_loss(gloo_pool):
    first, second = gloo_pool.run(_sampled_training)
    assert first == pytest.approx(second, rel=1e-6)


def _too_few_classes():
    with pytest.raises(ValueError, match="num_classes=1 cannot be split over 2 ranks"):
        ShardedMarginLoss(ArcFace, 8, 1)
    return True


def test_bad_settings_are_named(gloo_pool):
    assert gloo_pool.run(_too_few_classes) == [True, True]
    for sample_rate in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"sample_rate={sample_rate}"):
            ShardedMarginLoss(ArcFace, 8, 5, sample_rate=sample_rate)
    with pytest.raises(ValueError, match="whisker=-1"):
        ShardedMarginLoss(ArcFace, 8, 5, whisker=-1)
    loss = ShardedMarginLoss(ArcFace, 8, 5)
    with pytest.raises(ValueError, match="label 5 is outside"):
        loss(torch.randn(1, 8), torch.tensor([5]))


@pytest.mark.parametrize("seed", [1, 2**31, 2**32, 2**32 + 1, 2**63, 2**64 + 5])
def test_first_weights_and_samples_depend_on_the_whole_seed(seed):
    def build(seed: int) -> ShardedMarginLoss:
        return ShardedMarginLoss(ArcFace, embedding_size=4, num_classes=50, sample_rate=0.2, seed=seed)

    first, again, other = build(seed), build(seed), build(0)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    compared = []
    for loss in (first, again, other):
        loss(torch.ones(2, 4), torch.tensor([0, 1])).backward()
        compared.append((loss.head.weight.grad.abs().sum(dim=1) > 0).tolist())
    assert compared[0] == compared[1] != compared[2]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_step_on_a_gpu_waits_for_nothing(name, sample_rate, ranks):
    with fake_cuda(ranks):
        loss = ShardedMarginLoss(HEADS[name], 8, 100, sample_rate=sample_rate).to("cuda")
        embeddings = torch.randn(12, 8, device="cuda", requires_grad=True)
        labels = torch.zeros(12, dtype=torch.long, device="cuda")
        with StepWatch():
            loss(embeddings, labels).backward()
    assert embeddings.grad.shape == (12, 8)
    assert loss.head.weight.grad.shape == (100 // ranks, 8)
