"""The composed augmentation of faces."""

import pytest
import torch
from support.fake_cuda import StepWatch, fake_cuda

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


def test_random_resized_crop_has_draws_of_its_own_where_it_is_used():
    """Before the other distortions, and without it every draw is where it was before there were crops."""
    images = _smooth_images(40)
    plain, cropping = FaceAugmentation(seed=3), FaceAugmentation(seed=3, random_resized_crop=0.5)
    width = plain.draw(1).shape[1]
    assert cropping.draw(1).shape[1] == width + 23
    draws = torch.rand(40, width + 23, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    chosen = draws[:, width] < 0.5
    cropped = images.clone()
    # The flip comes first: crops of the flipped images.
    flipped = draws[:, 0] < 0.5
    cropped[flipped] = cropped[flipped].flip(3)
    cropped[chosen] = distortions.random_resized_crop(cropped[chosen], draws[chosen, width + 1 :], 0.8)
    cropped[flipped] = cropped[flipped].flip(3)
    assert 5 < chosen.sum() < 35
    assert torch.equal(cropping.transform(images, draws), plain.transform(cropped, draws[:, :width]))


def test_operations_reach_randaugment():
    images = _random_images(8)
    augment = FaceAugmentation(flip=0.0, num_ops=1, operations=["Invert"], seed=0)
    assert torch.equal(augment(images), 255 - images)


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


def test_draws_may_be_made_apart_from_the_images():
    images = _random_images(9)
    one, two = FaceAugmentation(seed=4, **EVERYTHING), FaceAugmentation(seed=4, **EVERYTHING)
    draws = two.draw(9)
    assert draws.dtype == torch.float64
    assert torch.equal(one(images), FaceAugmentation(**EVERYTHING).transform(images, draws.numpy()))


def test_on_a_gpu_the_host_waits_for_nothing():
    augment = FaceAugmentation(seed=1, **EVERYTHING)
    draws = augment.draw(64).numpy()
    distortions._normal_table.cache_clear()
    with fake_cuda():
        images = torch.empty(64, 3, 112, 112, dtype=torch.uint8, device="cuda")
        with StepWatch() as watch:
            augmented = augment.transform(images, draws)
    distortions._normal_table.cache_clear()  # a fake one
    assert augmented.shape == images.shape
    assert (augmented.dtype, augmented.device.type) == (torch.uint8, "cuda")
    # Whole groups of images at a time: 64 images in chunks of the CPU's size would take several times as many.
    assert sum(watch.operations.values()) < 1500


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
