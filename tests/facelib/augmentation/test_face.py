"""The composed augmentation of faces, its distortions, and the networks' input."""

import numpy as np
import pytest
import torch

from facelib.augmentation import FaceAugmentation, RandAugment, distortions, to_network_input
from facelib.augmentation.face import GEOMETRIC, PHOTOMETRIC

DISTORTIONS = {**GEOMETRIC, **PHOTOMETRIC}
EVERYTHING = dict.fromkeys([*DISTORTIONS, "grayscale"], 0.5)


def test_smallest_example():
    augment = FaceAugmentation(grayscale=0.2, cutout=0.3, strength=0.5, seed=0)
    images = _random_images(4)
    augmented = augment(images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8


def test_batches_may_be_cut_anywhere_and_images_do_not_meet():
    images = _random_images(40)
    whole, parts = FaceAugmentation(seed=1, **EVERYTHING), FaceAugmentation(seed=1, **EVERYTHING)
    together = whole(images)
    apart = torch.cat([parts(chunk) for chunk in images.split([1, 20, 0, 19])])
    assert torch.equal(together, apart)


def test_input_is_left_untouched():
    images = _random_images(16)
    before = images.clone()
    FaceAugmentation(seed=1, **EVERYTHING)(images)
    assert torch.equal(images, before)


def test_state_continues_bit_exactly():
    images = _random_images(9)
    augment = FaceAugmentation(seed=2, **EVERYTHING)
    augment(images)
    augment.strength = 0.35
    state = augment.state_dict()
    expected = augment(images)
    again = FaceAugmentation(seed=5, **EVERYTHING)
    again.load_state_dict(state)
    assert torch.equal(again(images), expected)


def test_settings_do_not_move_each_others_draws():
    """Switching one distortion on changes the images it is applied to, and no other."""
    images = _random_images(200)
    without, with_cutout = FaceAugmentation(seed=3)(images), FaceAugmentation(seed=3, cutout=0.1)(images)
    changed = (without != with_cutout).flatten(1).any(1)
    assert 5 < changed.sum() < 40


@pytest.mark.parametrize(("name", "expected"), [("flip", 0.5), ("grayscale", 0.2)])
def test_probabilities(name, expected):
    images = _random_images(1).expand(4000, -1, -1, -1)[:, :, :8, :8]
    augment = FaceAugmentation(**{"flip": 0.0, "num_ops": 0, "seed": 0, name: expected})
    share = (augment(images) != images).flatten(1).any(1).float().mean().item()
    assert share == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("name", list(DISTORTIONS))
def test_strength_scales_every_distortion(name):
    images = _smooth_images(100)
    changes = []
    for strength in (0.0, 0.3, 1.0):
        augment = FaceAugmentation(**{"flip": 0.0, "num_ops": 0, "seed": 0, "strength": strength, name: 1.0})
        changes.append((augment(images).int() - images.int()).abs().float().mean().item())
    assert changes[0] == 0
    assert 0 < changes[1] < changes[2]


def test_strength_scales_randaugment():
    augment = FaceAugmentation(magnitude=10, strength=0.25)
    assert augment.randaugment.magnitude == 2.5
    augment.strength = 1.0
    assert augment.randaugment.magnitude == 10
    images = _random_images(8)
    assert torch.equal(FaceAugmentation(flip=0.0, strength=0.0)(images), images)


def test_only_randaugment_equals_randaugment():
    images = _random_images(50)
    augment = FaceAugmentation(flip=0.0, seed=0)
    generator = torch.Generator().manual_seed(0)
    total = 2 + 16 + sum(1 + draws for _, draws, _ in DISTORTIONS.values())
    draws = torch.rand(50, total, dtype=torch.float64, generator=generator)
    assert torch.equal(augment(images), RandAugment().transform(images, draws[:, 2:18]))


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


def test_network_input():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(1, 3, 1, 3).contiguous()
    assert to_network_input(images)[0, 0, 0].tolist() == pytest.approx([-1, -0.6, 1])
    assert to_network_input(images, torch.bfloat16).dtype == torch.bfloat16
    channels_last = _random_images(2).contiguous(memory_format=torch.channels_last)
    assert to_network_input(channels_last).is_contiguous(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="uint8"):
        to_network_input(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flip": 1.5}, "flip = 1.5"),
        ({"blur": -0.1}, "blur = -0.1"),
        ({"strength": 2}, "strength = 2"),
        ({"magnitude": 40}, "magnitude = 40"),
        ({"amplitudes": {"fog": 1.0}}, "'fog' does not exist; choose one of shift_scale"),
        ({"amplitudes": {"low_resolution": 1.0}}, "low_resolution = 1.0"),
    ],
)
def test_errors_name_the_setting(arguments, message):
    with pytest.raises(ValueError, match=message):
        FaceAugmentation(**arguments)


def _random_images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 40), dtype=torch.uint8, generator=generator)


def _smooth_images(count: int) -> torch.Tensor:
    small = torch.rand(count, 3, 30, 30, generator=torch.Generator().manual_seed(0)) * 255
    return torch.nn.functional.interpolate(small, size=(112, 112), mode="bilinear").to(torch.uint8)
