"""Images per second on one core: batched RandAugment against one image at a time through Pillow.

    python benchmarks/augmentation.py [--batch 128] [--repeats 7]

Both variants apply 4 operations of 13 at magnitude 16 to 112x112 RGB images that are already decoded, and both end
with one uint8 tensor [N, 3, H, W]: the input of a training step. The baseline is the usual way, a transform called
once per image by the data loader; with torchvision installed, its RandAugment on the same images is measured too
(its 14 operations include ShearY and TranslateY, not Grayscale). The variants alternate, so that a busy machine
affects all; seconds are CPU time. Printed: median and range over the repeats.
"""

import argparse
import math
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from facelib.augmentation import FaceAugmentation, RandAugment
from facelib.augmentation.randaugment import OPERATION_NAMES, SIGNED, magnitude_of_bin

SIZE = 112


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = face_like_images(options.batch)
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    extras: dict[str, Any] = dict.fromkeys(EXTRAS, 0.2)
    batched, composed = RandAugment(seed=0), FaceAugmentation(grayscale=0.2, seed=0, **extras)
    contenders: dict[str, Callable[[], object]] = {
        "Pillow, one image at a time": lambda: one_at_a_time(arrays),
        "facelib RandAugment": lambda: batched(images),
        "facelib FaceAugmentation, all distortions at 0.2": lambda: composed(images),
    }
    transform = torchvision_transform()
    if transform is not None:
        contenders["torchvision.transforms.v2, one image at a time"] = lambda: torchvision_batch(transform, arrays)

    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(options.repeats + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if repeat:  # the first round warms up
                rates[name].append(options.batch / (time.process_time() - start))
    report(rates, options.batch)


EXTRAS = ("shift_scale", "color_jitter", "gamma", "blur", "low_resolution", "noise", "cutout")


def report(rates: dict[str, list[float]], batch: int) -> None:
    print(f"{platform.machine()}, torch {torch.__version__}, one thread, batches of {batch}, {SIZE}x{SIZE}")
    base = np.array(rates["Pillow, one image at a time"])
    print(f"{'':50s} {'images/s':>9s} {'range':>15s} {'times Pillow':>13s} {'range':>13s}")
    for name, values in rates.items():
        ratio = np.array(values) / base
        print(
            f"{name:50s} {np.median(values):9.0f} {min(values):7.0f}-{max(values):7.0f} "
            f"{np.median(ratio):13.2f} {ratio.min():6.2f}-{ratio.max():6.2f}"
        )


def face_like_images(count: int) -> torch.Tensor:
    """Smooth color images with a little noise: what compression and equalization see in photographs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    noise = 6 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def one_at_a_time(arrays: list[np.ndarray]) -> torch.Tensor:
    """The data loader's way: array to Pillow, four operations, back to a tensor, and the batch stacked."""
    augmented = []
    for array in arrays:
        image = Image.fromarray(array)
        for _ in range(4):
            name = random.choice(OPERATION_NAMES)
            magnitude = MAGNITUDES[name][random.randint(1, 16)]
            if name in SIGNED and random.random() < 0.5:
                magnitude = -magnitude
            image = pillow_operation(image, name, magnitude)
        augmented.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(augmented)


MAGNITUDES = {name: magnitude_of_bin(name, np.arange(31.0), SIZE).tolist() for name in OPERATION_NAMES}


def pillow_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    match name:
        case "ShearX":
            slope = math.tan(math.atan(magnitude))
            return image.transform(image.size, Image.Transform.AFFINE, (1, slope, 0, 0, 1, 0))
        case "TranslateX":
            return image.transform(image.size, Image.Transform.AFFINE, (1, 0, -int(magnitude), 0, 1, 0))
        case "Rotate":
            return image.rotate(magnitude)
        case "Brightness" | "Color" | "Contrast" | "Sharpness":
            enhancer: ImageEnhance._Enhance = getattr(ImageEnhance, name)(image)
            return enhancer.enhance(1 + magnitude)
        case "Posterize":
            return ImageOps.posterize(image, int(magnitude))
        case "Solarize":
            return ImageOps.solarize(image, int(magnitude))
        case "AutoContrast":
            return ImageOps.autocontrast(image)
        case "Equalize":
            return ImageOps.equalize(image)
        case "Grayscale":
            return image.convert("L").convert("RGB")
        case _:
            return image


def torchvision_transform() -> Callable[[Image.Image], Image.Image] | None:
    try:
        from torchvision.transforms import v2
    except ImportError:
        return None
    transform: Callable[[Image.Image], Image.Image] = v2.RandAugment(num_ops=4, magnitude=16)
    return transform


def torchvision_batch(transform: Callable[[Image.Image], Image.Image], arrays: list[np.ndarray]) -> torch.Tensor:
    results = [np.array(transform(Image.fromarray(array))) for array in arrays]
    return torch.stack([torch.from_numpy(result).permute(2, 0, 1) for result in results])


if __name__ == "__main__":
    main()
