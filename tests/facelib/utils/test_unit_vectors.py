"""Lengths from the smallest to the largest that a float holds, zero vectors, gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facelib.utils.arrays import l2_normalize
from facelib.utils.unit_vectors import unit_vectors

RNG = torch.Generator().manual_seed(0)


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1.0, 1e18, 1e30, 3e37])
def test_every_length_gives_the_same_direction(scale):
    vectors = torch.randn(6, 16, generator=RNG)
    expected = vectors.double() / vectors.double().norm(dim=1, keepdim=True)
    np.testing.assert_allclose(unit_vectors(vectors * scale), expected, atol=3e-7)
    np.testing.assert_allclose(l2_normalize((vectors * scale).numpy()), expected, atol=3e-7)
    columns = unit_vectors((vectors * scale).T, dim=0).T
    np.testing.assert_allclose(columns, expected, atol=3e-7)


def test_usual_lengths_give_the_digits_of_torch():
    vectors = 5 * torch.randn(50, 64, generator=RNG)
    assert torch.equal(unit_vectors(vectors), F.normalize(vectors))
    double = vectors.double()
    assert torch.equal(unit_vectors(double), F.normalize(double))


def test_gradient_is_that_of_the_definition():
    vectors = torch.randn(5, 8, generator=RNG, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_vectors, vectors)
    assert torch.autograd.gradcheck(lambda v: unit_vectors(v, 0), vectors)


def test_zero_vectors_stay_zero_and_have_no_gradient():
    vectors = torch.zeros(3, 8)
    vectors[1] = torch.randn(8, generator=RNG)
    vectors.requires_grad_(True)
    unit = unit_vectors(vectors)
    assert (unit[0] == 0).all()
    (unit * torch.randn(3, 8, generator=RNG)).sum().backward()
    assert (vectors.grad[[0, 2]] == 0).all()
    assert vectors.grad[1].abs().max() > 0
    assert vectors.grad.abs().max() < 10


def test_what_is_not_finite_is_not_hidden():
    vectors = torch.ones(3, 4)
    vectors[0, 1], vectors[1, 2] = torch.nan, torch.inf
    assert unit_vectors(vectors).isnan().any(dim=1).tolist() == [True, True, False]
    assert np.isnan(l2_normalize(vectors.numpy())).any(axis=1).tolist() == [True, True, False]
