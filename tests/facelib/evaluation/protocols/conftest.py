"""Evaluation sets that several protocols are tested on."""

import pytest
from support.datasets import pattern

from facelib.data import encode_image
from facelib.sources import write_bin


@pytest.fixture
def people_bin(tmp_path):
    """30 pairs; every genuine pair's first picture comes again in an impostor pair."""
    sides = [side for p in range(15) for side in ((p, 0), (p, 1), (p, 0), (p + 50, 0))]
    write_bin(tmp_path / "people.bin", [encode_image(pattern(*side)) for side in sides], [1, 0] * 15)
    return tmp_path / "people.bin"
