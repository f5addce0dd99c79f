"""Operations on one image: the pixels of torchvision on Pillow images, and those of the batched form."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional
from torchvision.transforms.functional import InterpolationMode

from facelib.augmentation.image_operations import IMAGE_OPERATIONS, Scratch, luminance
from facelib.augmentation.operations import OPERATIONS
from facelib.augmentation.randaugment import SIGNED, magnitude_of_bin

NEAREST = InterpolationMode.NEAREST
BLENDS = {"Brightness", "Color", "Contrast", "Sharpness"}


def images(height=40, width=48):
    """Noise, and a smooth image with a channel of narrow range and one of a single value."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    smooth = np.add.outer(np.arange(height) * 3, np.arange(width) * 2).astype(np.uint8)
    return [noise, np.stack([smooth, smooth // 3 + 20, np.full_like(smooth, 77)])]


def apply(name, image, magnitude, scratch=None):
    target = np.full_like(image, 99)
    IMAGE_OPERATIONS[name](image, magnitude, target, scratch or Scratch(*image.shape[1:]))
    return target


def magnitudes(name, width, height):
    for value in magnitude_of_bin(name, np.arange(0, 31, 3), width, height).tolist():
        yield from (value, -value) if name in SIGNED else (value,)


def torchvision_pixels(name, image, magnitude):
    """As torchvision's RandAugment and USynthFace's apply an operation to a Pillow image."""
    source = Image.fromarray(image.transpose(1, 2, 0).copy())
    degrees = math.degrees(math.atan(magnitude))
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], "interpolation": NEAREST}
    result = {
        "Identity": lambda: source,
        "ShearX": lambda: functional.affine(source, **{**still, "shear": [degrees, 0.0]}, center=[0, 0]),
        "ShearY": lambda: functional.affine(source, **{**still, "shear": [0.0, degrees]}, center=[0, 0]),
        "TranslateX": lambda: functional.affine(source, **{**still, "translate": [int(magnitude), 0]}),
        "TranslateY": lambda: functional.affine(source, **{**still, "translate": [0, int(magnitude)]}),
        "Rotate": lambda: functional.rotate(source, magnitude, interpolation=NEAREST),
        "Brightness": lambda: functional.adjust_brightness(source, 1 + magnitude),
        "Color": lambda: functional.adjust_saturation(source, 1 + magnitude),
        "Contrast": lambda: functional.adjust_contrast(source, 1 + magnitude),
        "Sharpness": lambda: functional.adjust_sharpness(source, 1 + magnitude),
        "Posterize": lambda: functional.posterize(source, int(magnitude)),
        "Solarize": lambda: functional.solarize(source, magnitude),
        "Invert": lambda: functional.invert(source),
        "AutoContrast": lambda: functional.autocontrast(source),
        "Equalize": lambda: functional.equalize(source),
        "Grayscale": lambda: functional.rgb_to_grayscale(source, num_output_channels=3),
    }[name]()
    return np.array(result).transpose(2, 0, 1)


@pytest.mark.parametrize("name", list(IMAGE_OPERATIONS))
def test_equal_to_torchvision_on_pillow_images(name):
    for image in images():
        for magnitude in magnitudes(name, 48, 40):
            result, expected = apply(name, image, magnitude), torchvision_pixels(name, image, magnitude)
            difference = result.astype(int) - expected
            if name in BLENDS:
                # Where the blend is a whole number, Pillow's float32 may fall below it.
                assert set(np.unique(difference)) <= {0, 1}, (name, magnitude)
                assert (difference != 0).mean() < 0.03, (name, magnitude)
            else:
                assert not difference.any(), (name, magnitude)


@pytest.mark.parametrize("name", list(IMAGE_OPERATIONS))
@pytest.mark.parametrize("shape", [(40, 48), (1, 30), (2, 2)])
def test_equal_to_the_batched_form(name, shape):
    batch, scratch = images(*shape), Scratch(*shape)
    for magnitude in magnitudes(name, shape[1], shape[0]):
        expected = OPERATIONS[name](torch.from_numpy(np.stack(batch)), torch.full((2,), magnitude, dtype=torch.float64))
        results = [apply(name, image, magnitude, scratch) for image in batch]
        assert np.array_equal(results, expected.numpy()), (name, magnitude)


def test_both_forms_have_the_same_operations():
    assert list(IMAGE_OPERATIONS) == list(OPERATIONS)


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translation_beyond_the_image_is_black(name):
    image = images()[0]
    for pixels in (48, -48, 500, -500):
        assert not apply(name, image, pixels).any()


def test_luminance_is_exact():
    """All red and blue values with greens in between, against whole numbers."""
    red, blue = np.meshgrid(np.arange(256), np.arange(256))
    image = np.stack([red, (red * 7 + blue * 13) % 256, blue]).astype(np.uint8)
    whole = image.astype(np.int64)
    expected = (whole[0] * 19595 + whole[1] * 38470 + whole[2] * 7471 + 32768) >> 16
    assert np.array_equal(luminance(image, Scratch(256, 256)), expected)
