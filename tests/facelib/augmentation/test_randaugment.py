"""RandAugment: what is drawn, and that draws can be repeated."""

import pickle

import numpy as np
import pytest
import torch
from scipy import stats

from facelib.augmentation import RandAugment
from facelib.augmentation.image_operations import IMAGE_OPERATIONS
from facelib.augmentation.randaugment import OPERATION_NAMES, magnitude_of_bin


def test_smallest_example():
    images = _random_images(4)
    augmented = RandAugment(seed=0)(images)
    assert augmented.shape == images.shape
    assert augmented.dtype == torch.uint8
    assert not torch.equal(augmented, images)


def test_a_seed_repeats_and_another_does_not():
    images = _random_images(6)
    first, second = RandAugment(seed=3), RandAugment(seed=3)
    assert torch.equal(first(images), second(images))
    assert torch.equal(first(images), second(images)), "the streams stay together"
    assert not torch.equal(RandAugment(seed=4)(images), RandAugment(seed=3)(images))
    assert not torch.equal(RandAugment()(images), RandAugment()(images)), "without a seed every object differs"


def test_batches_may_be_cut_anywhere():
    images = _random_images(20)
    whole, parts = RandAugment(seed=1), RandAugment(seed=1)
    assert torch.equal(whole(images), torch.cat([parts(chunk) for chunk in images.split([1, 7, 0, 12])]))


def test_an_image_depends_on_its_draws_only():
    images = _random_images(16)
    others = images.flip(0).clone()
    others[5] = images[5]
    assert torch.equal(RandAugment(seed=1)(images)[5], RandAugment(seed=1)(others)[5])


def test_given_generator_and_global_state():
    images = _random_images(5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    augment = RandAugment(seed=9)
    expected = RandAugment(seed=2)(images)
    assert torch.equal(augment(images, torch.Generator().manual_seed(2)), expected)
    assert torch.equal(augment(images), RandAugment(seed=9)(images)), "its own stream did not move"
    assert torch.equal(torch.get_rng_state(), before), "nor did the global one"


def test_state_continues_bit_exactly():
    images = _random_images(5)
    augment = RandAugment(seed=2)
    augment(images)
    augment.magnitude = 7.5
    state = pickle.loads(pickle.dumps(augment.state_dict()))
    expected = augment(images)
    again = RandAugment(seed=77)
    again.load_state_dict(state)
    assert torch.equal(again(images), expected)


def test_images_equal_a_loop_over_single_operations():
    """Rebuilds each image from the documented meaning of its draws, one operation at a time."""
    images = _random_images(30)
    draws = torch.rand(30, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for image, row, result in zip(images, draws, RandAugment(seed=5)(images)):
        expected = image[None]
        for operation, bin_draw, sign, _ in row.tolist():
            name = OPERATION_NAMES[int(operation * 13)]
            share = (1 + int(bin_draw * 16)) / 30
            signed = -1 if sign < 0.5 else 1
            magnitude = {
                "ShearX": signed * 0.3 * share,
                "TranslateX": signed * 150 / 331 * 48 * share,
                "Rotate": signed * 30 * share,
                "Posterize": 8 - np.round(4 * share),
                "Solarize": 255 - 8.5 * (1 + int(bin_draw * 16)),
            }.get(name, signed * 0.9 * share)
            expected = RandAugment.apply(name, expected, magnitude)
        assert torch.equal(result, expected[0])


def test_operations_bins_and_signs_are_uniform(monkeypatch):
    """Chi-square over 52,000 draws: operations 1/13 each, bins 1..16 and signs even, for every operation."""
    drawn: dict[str, list[float]] = {}

    def recorder(name):
        return lambda image, magnitude, target, scratch: drawn.setdefault(name, []).append(magnitude)

    for name in OPERATION_NAMES:
        monkeypatch.setitem(IMAGE_OPERATIONS, name, recorder(name))
    RandAugment(num_ops=4, magnitude=16, seed=0)(torch.zeros(13000, 3, 1, 30, dtype=torch.uint8))
    assert set(drawn) == set(OPERATION_NAMES)
    counts = [len(values) for values in drawn.values()]
    assert stats.chisquare(counts).pvalue > 1e-3
    rotations = np.array(drawn["Rotate"])
    assert stats.chisquare(np.bincount(np.abs(rotations).round().astype(int))[1:]).pvalue > 1e-3
    assert set(np.abs(rotations).round(9)) == set(range(1, 17))
    assert stats.binomtest(int((rotations < 0).sum()), len(rotations)).pvalue > 1e-3
    assert stats.chisquare(list(np.unique(drawn["Solarize"], return_counts=True)[1])).pvalue > 1e-3
    assert min(drawn["Posterize"]) == 6


@pytest.mark.parametrize("magnitude", [0.0, 0.25, 1, 3.5, 16])
def test_fractional_magnitudes_are_rounded_at_random(magnitude):
    augment = RandAugment(magnitude=magnitude)
    which, rounding = torch.rand(2, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    bins = torch.from_numpy(augment._bins(which.numpy(), rounding.numpy()))
    whole, fraction = int(magnitude), magnitude - int(magnitude)
    expected = np.zeros(18)
    for largest, weight in ((whole, 1 - fraction), (whole + 1, fraction)):
        expected[slice(1, largest + 1) if largest else 0] += weight / max(1, largest)
    counts = np.bincount(bins.long().numpy(), minlength=18)
    assert np.array_equal(counts > 0, expected > 0)
    assert np.abs(counts / 200_000 - expected).max() < 5e-3


def test_operations_are_a_choice(monkeypatch):
    """Of `operations` alone, each as often as it is named, by the draws that chose among thirteen."""
    images = _random_images(60)
    augment = RandAugment(num_ops=1, seed=5, operations=["ShearY", "Invert", "ShearY", "TranslateY"])
    draws = torch.rand(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    for image, (operation, bin_draw, sign, _), result in zip(images, draws.tolist(), augment(images)):
        name = ("ShearY", "Invert", "ShearY", "TranslateY")[int(operation * 4)]
        share, signed = (1 + int(bin_draw * 16)) / 30, -1 if sign < 0.5 else 1
        magnitude = {"ShearY": 0.3, "TranslateY": 150 / 331 * 32}.get(name, 0) * share * signed
        assert torch.equal(result, RandAugment.apply(name, image[None], magnitude)[0])
    # USynthFace's list by name changes nothing; its experiment with one operation is that one and Identity.
    assert torch.equal(RandAugment(seed=1, operations=OPERATION_NAMES)(images), RandAugment(seed=1)(images))
    some = RandAugment(num_ops=1, magnitude=9, seed=0, operations=["Invert", "Identity"])(images)
    kept = (some == images).flatten(1).all(1)
    assert 15 < kept.sum() < 45
    assert torch.equal(some[~kept], 255 - images[~kept])


def test_a_gpu_takes_the_same_decisions():
    """The form for GPUs, run on the CPU."""
    images = _random_images(50)
    augment = RandAugment(magnitude=0.7, seed=0, operations=[*OPERATION_NAMES, "ShearY", "TranslateY", "Invert"])
    draws = torch.rand(50, 16, dtype=torch.float64).numpy()
    chosen, magnitudes = augment._plan(draws.reshape(50, 4, 4), 32, 48)
    result = images.clone()
    for number in range(4):
        augment._round(result, chosen[:, number], magnitudes[:, number])
    assert (chosen < 0).any()
    assert torch.equal(augment.transform(images, draws), result)


def test_magnitude_zero_and_no_operations_change_nothing():
    images = _random_images(8)
    assert torch.equal(RandAugment(magnitude=0, seed=0)(images), images)
    assert torch.equal(RandAugment(num_ops=0, seed=0)(images), images)


def test_magnitude_may_be_set_between_batches():
    images = _random_images(64)
    augment = RandAugment(magnitude=0, seed=0)
    changes = []
    for magnitude in (0.3, 1.0, 4.0, 16.0):
        augment.magnitude = magnitude
        changes.append((augment(images).int() - images.int()).abs().float().mean().item())
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_magnitudes_of_bins():
    bins = torch.tensor([0.0, 4.0, 16.0, 30.0])
    expected = {
        "ShearX": [0, 0.04, 0.16, 0.3],
        "TranslateX": [0, 6.76737, 27.06949, 50.75529],
        "Rotate": [0, 4, 16, 30],
        "Contrast": [0, 0.12, 0.48, 0.9],
        "Posterize": [8, 7, 6, 4],
        "Solarize": [255, 221, 119, 0],
        "Equalize": [0, 0, 0, 0],
    }
    for name, values in expected.items():
        assert magnitude_of_bin(name, bins, 112).tolist() == pytest.approx(values, abs=1e-5), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_ops": -1}, "num_ops = -1"),
        ({"magnitude": 31}, "magnitude = 31"),
        ({"magnitude": -0.1}, "magnitude = -0.1"),
        ({"operations": []}, "operations: empty"),
        ({"operations": ["Flip"]}, "operation 'Flip' does not exist; choose one of Identity"),
    ],
)
def test_errors_name_the_setting(arguments, message):
    with pytest.raises(ValueError, match=message):
        RandAugment(**arguments)


@pytest.mark.gpu
def test_gpu_draws_the_same():
    images = _random_images(64)
    difference = (RandAugment(seed=0)(images.cuda()).cpu().int() - RandAugment(seed=0)(images).int()).abs()
    assert (difference > 1).float().mean() < 1e-2


def _random_images(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 48), dtype=torch.uint8, generator=generator)
