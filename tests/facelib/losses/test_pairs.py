"""Triplet and contrastive terms against plain loops."""

import sys

import pytest
import torch
import torch.nn.functional as F

from facelib.losses import contrastive_loss, triplet_loss


def batch(count=9):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 4, generator=generator).requires_grad_(), torch.tensor([0, 0, 1, 1, 1, 2, -1, 0, -1])


def mean_above_zero(values):
    values = [max(0.0, value) for value in values]
    return sum(values) / max(1, sum(value > 0 for value in values))


@pytest.mark.parametrize("margin", [0.2, 0.5])
def test_triplet(margin):
    embeddings, labels = batch()
    loss = triplet_loss(embeddings, labels, margin)
    loss.backward()
    assert embeddings.grad[labels < 0].abs().sum() == 0
    unit, rows = F.normalize(embeddings.detach()), [i for i in range(9) if labels[i] >= 0]
    values = [
        ((unit[a] - unit[p]).norm() - (unit[a] - unit[n]).norm() + margin).item()
        for a in rows
        for p in rows
        for n in rows
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]
    assert loss.item() == pytest.approx(mean_above_zero(values), rel=1e-5)


def test_contrastive():
    embeddings, labels = batch()
    unit, rows = F.normalize(embeddings.detach()), [i for i in range(9) if labels[i] >= 0]
    distances = [((unit[a] - unit[b]).norm().item(), labels[a] == labels[b]) for a in rows for b in rows if a != b]
    positive = mean_above_zero([distance for distance, same in distances if same])
    negative = mean_above_zero([1.0 - distance for distance, same in distances if not same])
    assert contrastive_loss(embeddings, labels).item() == pytest.approx(positive + negative, rel=1e-5)


@pytest.mark.parametrize("term", [triplet_loss, contrastive_loss])
def test_batch_without_pairs_is_zero(term):
    embeddings, _ = batch()
    loss = term(embeddings, torch.full((9,), -1))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize("term", [triplet_loss, contrastive_loss])
def test_missing_package_is_named(term, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(ImportError, match=r"pip install 'facelib\[metric-learning\]'"):
        term(*batch())
