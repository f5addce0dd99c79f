"""A generator from a package of its own: example_plugin/, as pip would install it."""

import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pytest

from facelib.synthesis import FaceGenerator, available_generators, build_generator

PLUGIN = Path(__file__).parent / "example_plugin"


@pytest.fixture
def installed(monkeypatch):
    """The package and its dist-info on the path, which is all that an installation does."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    sys.modules.pop("stripe_faces", None)


@pytest.mark.usefixtures("installed")
def test_smallest_example():
    assert "stripes" in available_generators()
    generator = build_generator("stripes", image_size=32)
    assert isinstance(generator, FaceGenerator)
    identities, indices = np.array([5, 5]), np.array([0, 1])
    codes = generator.identity_codes(1, identities)
    images = generator.render(codes, generator.image_factors(1, identities, indices))
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    assert (images[0] != images[1]).any()


@pytest.mark.usefixtures("installed")
def test_its_settings_are_checked_like_any_other():
    with pytest.raises(ValueError, match=r"'stripes' has no setting 'color'.*image_size"):
        build_generator("stripes", color=1)


def test_without_the_package_the_name_is_unknown():
    with pytest.raises(ValueError, match="unknown generator 'stripes'"):
        build_generator("stripes")


@pytest.mark.usefixtures("installed")
def test_dist_info_says_what_pyproject_says():
    project = tomllib.loads((PLUGIN / "pyproject.toml").read_text())["project"]
    points = {
        p.name: p.value for p in entry_points(group="facelib.generators") if p.dist and p.dist.name == "stripe-faces"
    }
    assert points == project["entry-points"]["facelib.generators"]
