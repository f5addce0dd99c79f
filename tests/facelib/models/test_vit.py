"""The transformer by itself; arcface_torch's files are in checkpoints/test_published.py."""

import pytest
import torch

from facelib.models import build_backbone, shapes_only
from facelib.models.vit import Block, VisionTransformer

TINY = {"width": 16, "depth": 2, "heads": 2, "image_size": 48, "patch_size": 9, "embedding_size": 8}


def test_smallest_example():
    network = VisionTransformer(**TINY).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 48, 48)).shape == (2, 8)


@pytest.mark.parametrize(
    ("name", "millions"), [("vit-t", 19.138), ("vit-s", 76.023), ("vit-b", 113.833), ("vit-l", 255.684)]
)
def test_sizes_of_arcface_torch(name, millions):
    with shapes_only():
        assert sum(p.numel() for p in build_backbone(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.001)


def test_hidden_tokens_have_the_mask_token_and_the_others_their_place():
    network = VisionTransformer(**TINY, mask_ratio=0.4)
    tokens = torch.randn(3, 25, 16)
    order = network._draw_order(tokens)
    kept = order[:, :15]
    filled = network._fill_hidden(tokens.gather(1, kept[:, :, None].expand(-1, -1, 16)), order)
    for image in range(3):
        for token in range(25):
            expected = tokens[image, token] if token in kept[image] else network.mask_token[0, 0]
            assert torch.equal(filled[image, token], expected)


def test_training_hides_tokens_and_skips_blocks_and_evaluation_does_not():
    network = VisionTransformer(**TINY, mask_ratio=0.5, drop_path=0.5)
    images = torch.rand(4, 3, 48, 48)
    network.train()
    assert not torch.equal(network(images), network(images))
    network.eval()
    assert torch.equal(network(images), network(images))
    network.train()
    network(images).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_skipping_keeps_the_mean():
    block = Block(8, 2, drop_path=0.25).train()
    change = block._skip(torch.ones(20000, 1, 1))
    assert change.unique().tolist() == pytest.approx([0, 4 / 3])
    assert change.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 15}, "width = 15 must be a multiple of heads = 2"),
        ({"depth": 0}, "depth = 0"),
        ({"patch_size": 50}, "fit into the image"),
        ({"drop_path": 1.0}, r"drop_path = 1\.0"),
        ({"mask_ratio": -0.1}, r"mask_ratio = -0\.1"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**{**TINY, **settings})
