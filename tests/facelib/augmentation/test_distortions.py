"""Each distortion against what it should do to pixels."""

import math

import numpy as np
import pytest
import torch

from facelib.augmentation import distortions
from facelib.augmentation.face import GEOMETRIC, PHOTOMETRIC

DISTORTIONS = {**GEOMETRIC, **PHOTOMETRIC}


@pytest.mark.parametrize("name", list(DISTORTIONS))
def test_amplitude_zero_changes_nothing(name):
    function, draws, _ = DISTORTIONS[name]
    images = _random_images(5)
    given = torch.rand(5, draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (function(images, given, 0.0).int() - images.int()).abs().max() <= (1 if name == "color_jitter" else 0)


def test_shift_moves_by_whole_pixels():
    images = _random_images(1)
    draws = torch.tensor([[0.5, 0.5 + 3 / 40, 0.5 - 2 / 32]], dtype=torch.float64)  # 3 px right, 2 px up at amplitude 1
    moved = distortions.shift_scale(images, draws, 1.0)
    assert torch.equal(moved[:, :, :-2, 3:], images[:, :, 2:, :-3])
    assert not moved[:, :, -2:].any()
    assert not moved[..., :3].any()


def test_zoom_doubles():
    """A zoom by 2 of a horizontal ramp halves its slope about the center."""
    ramp = (torch.arange(64) * 2).to(torch.uint8).expand(1, 3, 64, 64).contiguous()
    zoomed = distortions.shift_scale(ramp, torch.tensor([[1.0, 0.5, 0.5]], dtype=torch.float64), 1.0)
    expected = (torch.arange(64) + 0.5 - 32) / 2 + 32 - 0.5
    assert (zoomed[0, 0, 10].float() - 2 * expected).abs()[2:-2].max() <= 1


def test_blur_against_a_direct_convolution():
    image = _random_images(1)[:, :, :32, :32]
    blurred = distortions.gaussian_blur(image, torch.tensor([[0.5]], dtype=torch.float64), 10.0)
    sigma = 0.5 * 10 * 32 / 100
    weights = np.exp(-0.5 * ((np.arange(32)[:, None] - np.arange(32)) / sigma) ** 2)
    weights /= weights.sum(1, keepdims=True)
    expected = np.einsum("ij,cjk,lk->cil", weights, image[0].numpy().astype(float), weights)
    assert np.abs(blurred[0].numpy() - expected).max() <= 0.51


def test_low_resolution_keeps_the_mean_and_loses_detail():
    images = _random_images(4)
    poor = distortions.low_resolution(images, torch.ones(4, 1, dtype=torch.float64), 0.75)
    assert torch.allclose(poor.float().mean((2, 3)), images.float().mean((2, 3)), atol=2)
    assert poor.float().std() < 0.5 * images.float().std()


def test_noise_has_the_given_deviation():
    images = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    draws = torch.rand(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    noisy = distortions.additive_noise(images, draws, 20.0)
    assert noisy.float().std((1, 2, 3)).tolist() == pytest.approx((20 * draws[:, 0]).tolist(), rel=0.05, abs=0.3)
    assert noisy.float().mean().item() == pytest.approx(128, abs=0.3)
    assert not torch.equal(noisy[0] > 128, noisy[1] > 128)


def test_cutout_covers_a_rectangle_of_one_color():
    images = torch.zeros(1, 3, 20, 40, dtype=torch.uint8)
    draws = torch.tensor([[1.0, 1.0, 0.5, 0.5, 0.9, 0.5, 0.1]], dtype=torch.float64)
    covered = distortions.cutout(images, draws, 0.5)
    assert covered[0, :, 10, 20].tolist() == [230, 128, 25]
    assert (covered[0, 0] > 0).sum() == 10 * 20
    assert (covered[0, 0, 5:15, 10:30] == 230).all()


def test_gamma_keeps_black_and_white():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 3, 1, 3).contiguous()
    result = distortions.gamma(images, torch.tensor([[1.0], [0.0]], dtype=torch.float64), 1.0)[:, 0, 0].tolist()
    assert result == [[0, 64, 255], [0, 181, 255]]


def _random_images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 40), dtype=torch.uint8, generator=generator)


def _smooth_images(count: int) -> torch.Tensor:
    small = torch.rand(count, 3, 30, 30, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(small, size=(112, 112), mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize(("height", "width", "amplitude"), [(48, 48, 0.8), (40, 56, 0.8), (48, 48, 0.1), (30, 30, 0.0)])
def test_random_resized_crop_equals_its_definition(height, width, amplitude):
    """torchvision's rule with the same random numbers, image by image, and its own resized crop."""
    from torchvision.transforms.v2 import functional

    small = torch.rand(30, 3, 9, 9, generator=torch.Generator().manual_seed(0)) * 255
    images = torch.nn.functional.interpolate(small, size=(height, width), mode="bilinear").to(torch.uint8)
    draws = torch.rand(30, 22, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    results = distortions.random_resized_crop(images, draws, amplitude)
    boxes = []
    for image, row, result in zip(images, draws.tolist(), results):
        box = (0, 0, height, width)
        for attempt in range(10):
            area = height * width * (1 - amplitude * row[2 * attempt])
            ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * row[2 * attempt + 1])
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                box = (int(row[20] * (height - h + 1)), int(row[21] * (width - w + 1)), h, w)
                break
        boxes.append(box)
        expected = functional.resized_crop(image, *box, [height, width])
        assert (result.int() - expected.int()).abs().max() <= 1
    assert len(set(boxes)) > (20 if amplitude == 0.8 else 0)
    if not amplitude:
        assert torch.equal(results, images)
