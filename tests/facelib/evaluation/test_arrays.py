"""Arrays, lists and tensors as evaluation takes them, and what it refuses."""

import numpy as np
import pytest
import torch

from facelib.evaluation.arrays import as_float, as_labels, as_numpy, check_finite, pair_embeddings


def test_tensors_lists_and_arrays_are_the_same():
    expected = np.array([[1.0, 2.0]], np.float32)
    for values in (expected, torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[1.0, 2.0]]).bfloat16()):
        assert np.array_equal(as_numpy(values), expected)
    assert as_numpy([1, 2]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("given", "kept"),
    [(np.float64, np.float64), (np.float32, np.float32), (np.float16, np.float32), (np.int8, np.float64)],
)
def test_float_types_are_kept_or_widened(given, kept):
    assert as_float(np.ones(3, given), "x").dtype == kept


def test_what_is_no_number_is_refused():
    with pytest.raises(ValueError, match="scores must hold real numbers"):
        as_float(np.array(["a"]), "scores")


def test_labels_are_booleans_or_zeros_and_ones():
    assert as_labels([1, 0, 1]).tolist() == as_labels([True, False, True]).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"issame\[1\] is .*2"):
        as_labels(np.array([0, 2, 3]), "issame")
    with pytest.raises(ValueError, match=r"shape \[P\], got \[1, 2\]"):
        as_labels([[0, 1]])


def test_the_first_value_that_is_not_finite_is_named():
    check_finite(np.zeros((2, 2)), "first")
    with pytest.raises(ValueError, match=r"first\[1\] holds a value that is not finite"):
        check_finite(np.array([[0, 1], [np.nan, 0], [np.inf, 0]]), "first")


def test_pairs_are_normalized_and_a_zero_embedding_stays_zero():
    first, second, same = pair_embeddings([[3.0, 4.0], [0.0, 0.0]], [[0.0, 2.0], [1.0, 0.0]], [1, 0])
    assert first.tolist() == [[0.6, 0.8], [0.0, 0.0]]
    assert second.tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert same.tolist() == [True, False]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [[1.0], [2.0]], r"first must have shape \[P, D\]"),
        ([[1.0]], [[1.0], [2.0]], "first has 1 embeddings for 2 pairs"),
        ([[1.0], [2.0]], [[1.0, 0.0], [2.0, 0.0]], "first has 1 features, second has 2"),
    ],
)
def test_shapes_that_do_not_match_are_named(first, second, message):
    with pytest.raises(ValueError, match=message):
        pair_embeddings(first, second, [1, 0])
