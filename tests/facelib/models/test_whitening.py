"""Within-class whitening: against its definition, and folded into networks of every family."""

import numpy as np
import pytest
import torch
from support.models import TINY
from torch import nn

from facelib.models import WithinClassWhitening, build_backbone

BACKBONES = {
    "iresnet": TINY,
    "mobilefacenet": {"embedding_size": 16},
    "vit-t": {"embedding_size": 16},
}


@pytest.fixture
def people():
    """Embeddings [160, 8] of 40 identities: the directions of most difference within one are not those between them."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    between = rng.normal(size=(40, 8)) * ([1.0] * 4 + [0.1] * 4)
    within = rng.normal(size=(160, 8)) * ([0.3] * 4 + [2.0] * 4)
    return (between.repeat(4, 0) + within + 3) @ mixing, np.arange(40).repeat(4)


def similarities(embeddings, identities):
    """Cosines of all pairs: of one identity, and of two."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    same = identities[:, None] == identities
    upper = np.triu(np.ones_like(same), 1)
    cosines = unit @ unit.T
    return cosines[same & upper], cosines[~same & upper]


def test_definition(people):
    embeddings, identities = people
    whitening = WithinClassWhitening.fit(embeddings, identities, shrinkage=0.1)
    covariance = np.zeros((8, 8))
    for identity in range(40):
        own = embeddings[identities == identity]
        for e in own:
            covariance += np.outer(e - own.mean(0), e - own.mean(0)) / (160 - 40)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 8 * np.eye(8)
    # Up to its scale the matrix is the inverse square root.
    product = whitening.matrix @ shrunk @ whitening.matrix
    np.testing.assert_allclose(product / product[0, 0], np.eye(8), atol=1e-10)
    np.testing.assert_allclose(whitening.matrix, whitening.matrix.T, atol=1e-12)
    assert (whitening.images, whitening.identities) == (160, 40)
    whitened = whitening.apply(embeddings)
    assert whitened.dtype == np.float32
    np.testing.assert_allclose(np.mean(whitened**2), np.mean(embeddings**2), rtol=1e-5)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-5)


def test_pairs_of_new_people_are_told_apart_better(people):
    embeddings, identities = people
    fitted, new = identities < 20, identities >= 20
    whitening = WithinClassWhitening.fit(embeddings[fitted], identities[fitted])

    def auc(values):
        genuine, impostor = similarities(values, identities[new])
        return np.mean(genuine[:, None] > impostor)

    centered = embeddings[new] - embeddings[fitted].mean(0)
    assert auc(whitening.apply(embeddings[new])) > auc(centered) + 0.1


def test_full_shrinkage_only_centers(people):
    embeddings, identities = people
    whitening = WithinClassWhitening.fit(embeddings, identities, shrinkage=1)
    np.testing.assert_allclose(whitening.matrix, whitening.matrix[0, 0] * np.eye(8), atol=1e-12)


def test_identities_with_one_image_are_left_out(people):
    embeddings, identities = people
    more = np.concatenate([embeddings, np.full((1, 8), 100.0)]), np.append(identities, 99)
    np.testing.assert_array_equal(
        WithinClassWhitening.fit(*more).matrix, WithinClassWhitening.fit(embeddings, identities).matrix
    )


@pytest.mark.parametrize("name", BACKBONES)
def test_folded_into_a_network(name):
    torch.manual_seed(0)
    backbone = build_backbone(name, **BACKBONES[name])
    with torch.no_grad():
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 2)
                module.bias.normal_(0, 0.1)
    backbone.eval()
    rng = np.random.default_rng(0)
    whitening = WithinClassWhitening.fit(rng.normal(size=(64, 16)) * np.arange(1, 17), np.arange(32).repeat(2))
    images = torch.randn(4, 3, 112, 112)
    with torch.inference_mode():
        before = backbone(images).numpy()
        folded = whitening.fold_into(backbone)
        np.testing.assert_allclose(folded(images).numpy(), whitening.apply(before), rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(backbone(images).numpy(), before)
    assert folded.state_dict().keys() == backbone.state_dict().keys()


@pytest.mark.parametrize(
    ("embeddings", "identities", "shrinkage", "message"),
    [
        (np.zeros((4, 3)), np.arange(4), 0.1, "no identity has two images"),
        (np.ones((4, 3)), np.zeros(4, int), 0.1, "nothing to whiten by"),
        (np.eye(3), np.zeros(2, int), 0.1, r"\[3, 3\] and identities \[2\]"),
        (np.full((2, 3), np.nan), np.zeros(2, int), 0.1, "not finite"),
        (np.eye(3), np.zeros(3, int), 0.0, "shrinkage is 0"),
    ],
)
def test_what_cannot_be_fitted_is_refused(embeddings, identities, shrinkage, message):
    with pytest.raises(ValueError, match=message):
        WithinClassWhitening.fit(embeddings, identities, shrinkage)


def test_networks_with_another_end_are_refused(people):
    whitening = WithinClassWhitening.fit(*people)
    with pytest.raises(ValueError, match="does not end in a Linear layer and a BatchNorm1d"):
        whitening.fold_into(nn.Sequential(nn.Flatten(), nn.Linear(3 * 112 * 112, 8), nn.ReLU()))
    with pytest.raises(ValueError, match="16 values, not 8"):
        whitening.fold_into(build_backbone("iresnet", **TINY))
