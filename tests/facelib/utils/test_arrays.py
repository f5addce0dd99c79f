import numpy as np
import pytest
import torch

from facelib.utils.arrays import l2_normalize


def test_smallest_example():
    np.testing.assert_allclose(l2_normalize(np.array([[3.0, 4.0], [0.0, 2.0]])), [[0.6, 0.8], [0, 1]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equals_torch(dtype):
    vectors = np.random.default_rng(0).standard_normal((50, 512)).astype(dtype)
    vectors[7] = 0
    normalized = l2_normalize(vectors)
    assert normalized.dtype == dtype
    expected = torch.nn.functional.normalize(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(normalized, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert not normalized[7].any()
