from pathlib import Path

import numpy as np
import pytest
import torch

from facelib.evaluation import kfold_accuracy

GOLDEN = Path(__file__).parents[2] / "golden" / "evaluation.npz"


def brute_force(first, second, issame, folds):
    """The protocol word by word: for each fold, every threshold on all other pairs, the first best one on the fold."""
    first = first / np.linalg.norm(first, axis=1, keepdims=True)
    second = second / np.linalg.norm(second, axis=1, keepdims=True)
    distances = np.sum((first - second) ** 2, axis=1)
    accuracies = []
    for test in np.array_split(np.arange(len(issame)), folds):
        train = np.setdiff1d(np.arange(len(issame)), test)
        grid = np.arange(0, 4, 0.01)
        scores = [np.mean((distances[train] < threshold) == issame[train]) for threshold in grid]
        accuracies.append(np.mean((distances[test] < grid[np.argmax(scores)]) == issame[test]))
    return np.array(accuracies)


def test_smallest_example():
    first = np.eye(4)
    second = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0.0]])
    result = kfold_accuracy(first, second, [True, False, True, False], folds=2)
    assert result.accuracy == 1.0
    assert result.fold_accuracies.tolist() == [1.0, 1.0]


def test_equals_the_published_code():
    with np.load(GOLDEN) as golden:
        embeddings = golden["kfold/embeddings"] + golden["kfold/embeddings_flip"]
        result = kfold_accuracy(embeddings[0::2], embeddings[1::2], golden["kfold/issame"])
        np.testing.assert_array_equal(result.fold_accuracies, golden["kfold/accuracy_per_fold"])
        assert result.accuracy == golden["kfold/accuracy"]
        assert result.std == golden["kfold/std"]


@pytest.mark.parametrize(("pairs", "folds"), [(10, 10), (11, 2), (57, 7), (203, 10)])
def test_equals_brute_force(pairs, folds):
    rng = np.random.default_rng(pairs)
    issame = rng.random(pairs) < 0.5
    first = rng.normal(size=(pairs, 6))
    second = np.where(issame[:, None], first, 0) + rng.normal(size=(pairs, 6))
    result = kfold_accuracy(first, second, issame, folds)
    np.testing.assert_array_equal(result.fold_accuracies, brute_force(first, second, issame, folds))


def test_distances_on_a_threshold_are_rejected():
    # Squared distance exactly 2: below every threshold above 2, not below 2 itself.
    first, second = np.eye(2)[[0, 0, 0, 0]], np.eye(2)[[1, 1, 1, 1]]
    result = kfold_accuracy(first, second, [True] * 4, folds=2)
    assert result.fold_thresholds.tolist() == pytest.approx([2.01, 2.01])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_takes_tensors_and_integer_labels(dtype):
    embeddings = torch.eye(4, dtype=dtype, requires_grad=True)
    result = kfold_accuracy(embeddings, embeddings, torch.ones(4, dtype=torch.int64), folds=2)
    assert result.accuracy == 1.0


@pytest.mark.parametrize(
    ("first", "second", "issame", "folds", "message"),
    [
        (np.ones((4, 2)), np.ones((4, 3)), [1, 0, 1, 0], 2, "first has 2 features, second has 3"),
        (np.ones((4, 2)), np.ones((3, 2)), [1, 0, 1, 0], 2, "second has 3 embeddings for 4 pairs"),
        (np.ones((4, 2)), np.ones((4, 2)), [1, 0, 1, 0], 10, "folds is 10"),
        (np.ones((4, 2)), np.ones((4, 2)), [1, 0, 2, 0], 2, r"issame\[2\]"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), [1, 0, 1, 0], 2, r"first\[0\].*not finite"),
    ],
)
def test_refuses(first, second, issame, folds, message):
    with pytest.raises(ValueError, match=message):
        kfold_accuracy(first, second, issame, folds)
