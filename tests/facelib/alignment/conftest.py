"""Golden data of the detectors."""

from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="session")
def mtcnn_golden() -> dict[str, np.ndarray]:
    """What the package `mtcnn` computes, see tests/golden/make_mtcnn.py."""
    with np.load(GOLDEN / "mtcnn.npz") as arrays:
        return dict(arrays)
