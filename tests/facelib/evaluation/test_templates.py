from pathlib import Path

import numpy as np
import pytest

from facelib.evaluation import score_templates, template_features
from facelib.evaluation import templates as module

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation.npz"


def brute_force(features, templates, medias, weights=None):
    features = features.astype(np.float64) if weights is None else features * weights[:, None].astype(np.float64)
    pooled = []
    for template in np.unique(templates):
        inside = templates == template
        media = [features[inside & (medias == medium)].mean(axis=0) for medium in np.unique(medias[inside])]
        total = np.sum(media, axis=0)
        pooled.append(total / np.linalg.norm(total))
    return np.array(pooled)


def random_images(seed, images=200, size=7):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(images, size)).astype(np.float32)
    # Media numbers repeat between templates, numbers are neither dense nor sorted.
    return features, rng.integers(0, 20, images) * 3 + 5, rng.integers(0, 6, images)


def test_smallest_example():
    features = np.array([[1, 0], [3, 0], [0, 2], [0, 5]], dtype=np.float32)
    pooled, ids = template_features(features, templates=[7, 7, 7, 9], medias=[1, 1, 2, 3])
    assert ids.tolist() == [7, 9]
    np.testing.assert_allclose(pooled, [[np.sqrt(0.5), np.sqrt(0.5)], [0, 1]], rtol=1e-6)
    np.testing.assert_allclose(score_templates(pooled, ids, [7, 9], [9, 9]), [np.sqrt(0.5), 1], rtol=1e-6)


@pytest.mark.parametrize("advantage", [0, 10**9], ids=["by row", "by block"])
def test_equals_the_published_code(monkeypatch, advantage):
    monkeypatch.setattr(module, "DENSE_ADVANTAGE", advantage)
    with np.load(GOLDEN) as golden:
        pooled, ids = template_features(golden["ijb/features"], golden["ijb/templates"], golden["ijb/medias"])
        np.testing.assert_array_equal(ids, golden["ijb/unique_templates"])
        np.testing.assert_allclose(pooled, golden["ijb/template_features"], atol=1e-6)
        scores = score_templates(pooled, ids, golden["ijb/p1"], golden["ijb/p2"])
        np.testing.assert_allclose(scores, golden["ijb/scores"], atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_pooling_equals_brute_force(seed, weighted):
    features, templates, medias = random_images(seed)
    weights = np.random.default_rng(99).random(len(features)).astype(np.float32) if weighted else None
    pooled, ids = template_features(features, templates, medias, weights)
    np.testing.assert_array_equal(ids, np.unique(templates))
    np.testing.assert_allclose(pooled, brute_force(features, templates, medias, weights), atol=2e-6)


def test_float64_is_kept():
    features, templates, medias = random_images(0)
    pooled, _ = template_features(features.astype(np.float64), templates, medias)
    assert pooled.dtype == np.float64
    np.testing.assert_allclose(pooled, brute_force(features, templates, medias), atol=1e-14)


@pytest.mark.parametrize("block_bytes", [200, 5000, 2**25])
@pytest.mark.parametrize("advantage", [0, 10**9], ids=["by row", "by block"])
def test_scoring_equals_brute_force_for_any_order_and_chunk(monkeypatch, advantage, block_bytes):
    monkeypatch.setattr(module, "DENSE_ADVANTAGE", advantage)
    monkeypatch.setattr(module, "BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(0)
    ids = rng.permutation(1000)[:50]
    features = rng.normal(size=(50, 7)).astype(np.float32)
    first, second = rng.integers(0, 50, 333), rng.integers(0, 30, 333)
    scores = score_templates(features, ids, ids[first].astype(np.int32), ids[second])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, (features[first] * features[second]).sum(axis=1), atol=1e-5)


def test_widely_spread_template_numbers():
    ids = np.array([5, 10**12, -3])
    scores = score_templates(np.eye(3, dtype=np.float32), ids, [10**12, 5], [10**12, -3])
    assert scores.tolist() == [1.0, 0.0]


def test_no_pairs():
    assert score_templates(np.eye(2), [1, 2], np.array([], int), np.array([], int)).shape == (0,)


@pytest.mark.parametrize(
    ("first", "second", "ids", "message"),
    [
        ([1, 2], [2, 4], [1, 2, 5], r"second\[1\] is template 4"),
        ([1, 9], [2, 2], [1, 2, 5], "templates 1 to 9"),
        ([1, 2], [2], [1, 2, 5], "second must be 2 integers"),
        ([1.0, 2.0], [2, 2], [1, 2, 5], "first must be 2 integers, got dtype float64"),
        ([1, 2], [2, 1], [1, 2, 2], "template 2 more than once"),
    ],
)
def test_scoring_refuses(first, second, ids, message):
    with pytest.raises(ValueError, match=message):
        score_templates(np.eye(3), ids, first, second)


def test_pooling_refuses():
    features = np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    with pytest.raises(ValueError, match="template 4 has a pooled feature that is zero"):
        template_features(features, [4, 4, 5], [1, 1, 1])
    with pytest.raises(ValueError, match="medias must be 3 integers"):
        template_features(features, [4, 4, 5], [1, 1])
    with pytest.raises(ValueError, match=r"weights has shape \[2\]"):
        template_features(features, [4, 4, 5], [1, 1, 1], weights=[1, 2])
    features[2] = np.nan
    with pytest.raises(ValueError, match="template 5"):
        template_features(features[1:], [4, 5], [1, 1])
