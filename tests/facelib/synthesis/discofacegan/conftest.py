"""Golden data of the original code (TensorFlow 1.12), and the published folder layout with its small networks."""

import shutil
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[3] / "golden" / "discofacegan"


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def tiny() -> dict[str, np.ndarray]:
    """What the original code computed with the 32-pixel network."""
    with np.load(GOLDEN / "tiny_r32.npz") as arrays:
        return dict(arrays)


def place_published_files(folder: Path, average: bool = True) -> Path:
    """The published layout, with the small networks."""
    shutil.copytree(GOLDEN / "vae_tiny", folder / "vae" / "weights")
    shutil.copy(GOLDEN / "tiny_r32.pkl", folder / "network-snapshot-020126.pkl")
    if average:
        row = np.load(GOLDEN / "tiny_r32.npz")["average_w_id"]
        np.savetxt(folder / "network-snapshot-020126-average_w_id.txt", np.tile(row, (8, 1)))
    return folder


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as the user fills it."""
    return place_published_files(tmp_path / "discofacegan")


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted folder without its sources. Not to be written to."""
    from facelib.synthesis.discofacegan.convert import convert

    folder = place_published_files(tmp_path_factory.mktemp("converted") / "discofacegan")
    convert(folder)
    shutil.rmtree(folder / "vae")
    (folder / "network-snapshot-020126.pkl").unlink()
    return folder
