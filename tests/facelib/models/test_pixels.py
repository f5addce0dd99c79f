"""Networks trained on other pixels, given images in [-1, 1]."""

import copy

import pytest
import torch
from torch import nn

from facelib.models import NORMALIZATIONS, build_backbone, take_symmetric_pixels


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_a_network_sees_the_pixels_it_was_trained_on(name):
    """Against the definition, (x / 255 - mean) / std of uint8 pixels x."""
    pixels = torch.randint(0, 256, (2, 3, 16, 16)).double()
    mean, std, bgr = NORMALIZATIONS[name]
    expected = (pixels / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    expected = expected[:, [2, 1, 0]] if bgr else expected
    network = take_symmetric_pixels(nn.Sequential(nn.Identity()), name)
    found = network((pixels / 127.5 - 1).float())
    assert (found - expected).abs().max() < 1e-5
    assert network.normalization == name


@pytest.mark.parametrize("name", ["imagenet", "unit_bgr"])
def test_state_copies_and_compilation_are_as_before(name):
    settings = {"embedding_size": 8, "image_size": 32}
    plain = build_backbone("iresnet10-narrow", **settings).eval()
    state = list(plain.state_dict())
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    before = plain(images)
    network = take_symmetric_pixels(plain, name)
    after = network(images)
    assert list(network.state_dict()) == state
    assert not torch.allclose(after, before)
    assert torch.equal(copy.deepcopy(network)(images), after)
    assert torch.allclose(torch.compile(network, backend="eager")(images), after)
    other = build_backbone("iresnet10-narrow", **settings).eval()
    other.load_state_dict(network.state_dict())
    assert torch.equal(take_symmetric_pixels(other, name)(images), after)


def test_images_in_minus_one_to_one_are_left_alone():
    network = take_symmetric_pixels(nn.Identity(), "symmetric")
    images = torch.rand(1, 3, 4, 4)
    assert network(images) is images


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"normalization 'zscore' is unknown: choose one of symmetric, imagenet"):
        take_symmetric_pixels(nn.Identity(), "zscore")
    with pytest.raises(ValueError, match="already"):
        take_symmetric_pixels(take_symmetric_pixels(nn.Identity(), "imagenet"), "imagenet")
