"""The operations on batches: the original's pixels, and slow references written here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.fake_cuda import StepWatch, fake_cuda

from facelib.augmentation import RandAugment, operations
from facelib.augmentation.operations import OPERATIONS, luminance
from facelib.augmentation.randaugment import OPERATION_NAMES

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "randaugment_dev.npz")
CASES = sorted(key for key in GOLDEN.files if key.endswith(("/+", "/-")))


def test_smallest_example():
    images = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert RandAugment.apply("Brightness", images, 0.5).unique().tolist() == [150]


@pytest.mark.parametrize("case", CASES)
def test_equal_to_the_original(case):
    image, name, magnitude = _batch(GOLDEN["image_rgb"]), case.split("/")[0], float(GOLDEN[f"{case}/magnitude"])
    assert torch.equal(RandAugment.apply(name, image, magnitude), _batch(GOLDEN[case]))
    assert torch.equal(OPERATIONS[name](image, torch.tensor([magnitude]).double()), _batch(GOLDEN[case]))


def test_golden_values_cover_every_operation():
    assert {case.split("/")[0] for case in CASES} == set(OPERATION_NAMES)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_an_image_does_not_depend_on_its_batch(name):
    images, magnitudes = _random_images(7, 24, 40), _magnitudes(name, 7)
    together = RandAugment.apply(name, images, magnitudes)
    alone = [RandAugment.apply(name, images[i : i + 1], magnitudes[i : i + 1]) for i in range(7)]
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_input_is_left_untouched_and_strided_input_is_read_right(name):
    images, magnitudes = _random_images(3, 16, 16), _magnitudes(name, 3)
    before = images.clone()
    result = RandAugment.apply(name, images, magnitudes)
    assert torch.equal(images, before)
    strided = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(RandAugment.apply(name, strided, magnitudes), result)


@pytest.mark.parametrize(
    "name", ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast"]
)
def test_magnitude_zero_is_identity(name):
    images = _random_images(3, 20, 20)
    assert torch.equal(RandAugment.apply(name, images, 0.0), images)


def test_geometric_operations_against_loops():
    image, height, width = _random_images(1, 13, 17), 13, 17
    source = image[0].numpy()
    angle, slope, pixels = np.deg2rad(20.0), 0.213, 5
    inverse = {
        "ShearX": (slope, lambda x, y: (x + slope * y, y)),
        "TranslateX": (float(pixels) + 0.7, lambda x, y: (x - pixels, y)),
        "Rotate": (
            20.0,
            lambda x, y: (
                np.cos(angle) * (x - width / 2) - np.sin(angle) * (y - height / 2) + width / 2,
                np.sin(angle) * (x - width / 2) + np.cos(angle) * (y - height / 2) + height / 2,
            ),
        ),
    }
    for name, (magnitude, function) in inverse.items():
        expected = np.zeros_like(source)
        for row in range(height):
            for column in range(width):
                x, y = (int(np.floor(v)) for v in function(column + 0.5, row + 0.5))
                if 0 <= x < width and 0 <= y < height:
                    expected[:, row, column] = source[:, y, x]
        assert np.array_equal(RandAugment.apply(name, image, magnitude)[0].numpy(), expected), name


def test_value_operations_against_loops():
    image = _random_images(1, 11, 9)
    image[0, 1] //= 3  # a channel of narrow range
    image[0, 2] = 77  # and one without any
    source = image[0].numpy().astype(int)
    posterized, solarized = source & 0b11110000, np.where(source < 128, source, 255 - source)
    stretched, equalized = source.copy(), source.copy()
    for channel in range(3):
        values = source[channel]
        low, high = values.min(), values.max()
        if high > low:
            stretched[channel] = np.floor((values - low) * 255 / (high - low) + 1e-9)
        counts = np.bincount(values.ravel(), minlength=256)
        step = (counts.sum() - counts[values.max()]) // 255
        if step:
            cumulative = np.concatenate([[0], np.cumsum(counts)[:-1]])
            equalized[channel] = np.minimum((step // 2 + cumulative) // step, 255)[values]
    for name, magnitude, expected in [
        ("Posterize", 4, posterized),
        ("Solarize", 128, solarized),
        ("AutoContrast", 0, stretched),
        ("Equalize", 0, equalized),
    ]:
        difference = np.abs(RandAugment.apply(name, image, magnitude)[0].numpy().astype(int) - expected)
        assert difference.max() <= (1 if name == "AutoContrast" else 0), name


def test_equalize_flattens_a_histogram():
    image = (_random_images(1, 112, 112) // 4) + 20
    flat = RandAugment.apply("Equalize", image)
    assert flat.min() < 5
    assert flat.max() > 250
    assert abs(flat.float().mean().item() - 127.5) < 5


def test_color_at_minus_one_is_gray():
    image = _random_images(2, 16, 16)
    gray = RandAugment.apply("Color", image, -1.0)
    assert torch.equal(gray, RandAugment.apply("Grayscale", image))
    assert torch.equal(gray[:, 0], luminance(image))


@pytest.mark.parametrize(
    "images", [torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, 3).byte()]
)
def test_wrong_images_are_refused(images):
    with pytest.raises(ValueError, match=r"uint8 \[N, 3, H, W\]"):
        RandAugment.apply("Rotate", images, 3.0)


def test_unknown_operation_lists_what_exists():
    with pytest.raises(ValueError, match="'Flip' does not exist; choose one of Identity, ShearX"):
        RandAugment.apply("Flip", torch.zeros(1, 3, 8, 8, dtype=torch.uint8), 0.1)


def test_the_forms_for_cpu_and_gpu_agree():
    images = _random_images(9, 30, 41)
    for shape in ((9, 256), (9, 3, 256)):
        tables = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0))
        expected = operations.look_up_by_gather(images, tables.byte().view(9, -1, 256))
        assert torch.equal(operations.look_up(images, tables), expected)


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_no_operation_makes_the_host_wait_for_a_gpu(name):
    with fake_cuda():
        images, magnitudes = _random_images(5, 112, 112), _magnitudes(name, 5)
        images, magnitudes = images.to("cuda"), magnitudes.to("cuda")
        with StepWatch():
            assert OPERATIONS[name](images, magnitudes).shape == images.shape


@pytest.mark.gpu
@pytest.mark.parametrize("name", list(OPERATIONS))
def test_gpu_gives_the_same_pixels(name):
    images, magnitudes = _random_images(5, 112, 112), _magnitudes(name, 5)
    result = RandAugment.apply(name, images.cuda(), magnitudes.cuda()).cpu()
    difference = (result.int() - RandAugment.apply(name, images, magnitudes).int()).abs()
    assert (difference > 1).float().mean() < 1e-3


def _batch(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def _random_images(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def _magnitudes(name: str, count: int) -> torch.Tensor:
    largest = {
        "ShearX": 0.3,
        "ShearY": 0.3,
        "TranslateX": 9.0,
        "TranslateY": 9.0,
        "Rotate": 30.0,
        "Posterize": 8.0,
        "Solarize": 255.0,
    }.get(name, 0.9)
    low = 0.0 if name in ("Posterize", "Solarize") else -largest
    return torch.linspace(low, largest, count, dtype=torch.float64)
