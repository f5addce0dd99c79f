"""Published lists of augmentations: torchvision's transforms in the published order, one seed an image."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from facelib.augmentation import TorchvisionAugmentation
from facelib.augmentation.policies import POLICIES

SIZE = 64


def smooth_images(count):
    small = torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(small, size=(SIZE, SIZE), mode="bilinear").to(torch.uint8)


def published(policy):
    """On Pillow images, as MoCo's and USynthFace's scripts write the lists (MoCo's blur is Pillow's own)."""
    crop, mirror = transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0)), transforms.RandomHorizontalFlip()
    if policy == "moco_v1":
        return [crop, transforms.RandomGrayscale(p=0.2), transforms.ColorJitter(0.4, 0.4, 0.4, 0.4), mirror]
    return [
        crop,
        transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
        transforms.RandomGrayscale(p=0.2),
        transforms.RandomApply([transforms.GaussianBlur(23, (0.1, 2.0))], p=0.5),
        mirror,
    ]


@pytest.mark.parametrize("policy", ["moco_v1", "moco_v2"])
def test_equal_to_the_published_list_on_pillow_images(policy):
    images, augment = smooth_images(24), TorchvisionAugmentation(policy)
    draws = torch.rand(24, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    reference = transforms.Compose(published(policy))
    for image, draw, result in zip(images, draws[:, 0].tolist(), augment.transform(images, draws)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draw * 2**53))
            expected = np.array(reference(Image.fromarray(image.permute(1, 2, 0).numpy())))
        difference = np.abs(result.permute(1, 2, 0).numpy().astype(int) - expected)
        # Pillow's hue has whole levels of 255, and every step rounds.
        assert np.mean(difference) < 3
        assert np.quantile(difference, 0.99) <= 16


@pytest.mark.parametrize("policy", POLICIES)
def test_a_seed_an_image_and_batches_cut_anywhere(policy):
    images = smooth_images(10)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole, parts = TorchvisionAugmentation(policy, seed=1), TorchvisionAugmentation(policy, seed=1)
    together = whole(images)
    assert torch.equal(together, torch.cat([parts(chunk) for chunk in images.split([3, 0, 7])]))
    assert not torch.equal(together, images)
    assert torch.equal(torch.get_rng_state(), before)
    state = whole.state_dict()
    expected = whole(images)
    again = TorchvisionAugmentation(policy, seed=9)
    again.load_state_dict(state)
    assert torch.equal(again(images), expected)


def test_strength_scales_randaugment():
    images = smooth_images(16)
    weak = TorchvisionAugmentation("torchvision_randaugment", flip=0, magnitude=16, strength=0.5, seed=1)(images)
    assert torch.equal(weak, TorchvisionAugmentation("torchvision_randaugment", flip=0, magnitude=8, seed=1)(images))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="policy = 'simclr': choose one of moco_v1"):
        TorchvisionAugmentation("simclr")
    with pytest.raises(ValueError, match="strength = 2"):
        TorchvisionAugmentation("moco_v2", strength=2)
    with pytest.raises(ValueError, match="uint8"):
        TorchvisionAugmentation("moco_v2")(torch.zeros(1, 3, 8, 8))
