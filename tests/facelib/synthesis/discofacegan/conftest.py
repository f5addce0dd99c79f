"""Golden data of the original code (TensorFlow 1.12), and the published folder layout with its small networks."""

from pathlib import Path

import numpy as np
import pytest
from support.discofacegan import GOLDEN, converted_folder, place_published_files


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny() -> dict[str, np.ndarray]:
    """What the original code computed with the 32-pixel network."""
    with np.load(GOLDEN / "tiny_r32.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the user fills it."""
    return place_published_files(tmp_path / "discofacegan")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder without its sources. Not to be written to."""
    return converted_folder(tmp_path_factory.mktemp("converted") / "discofacegan")
