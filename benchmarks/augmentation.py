"""Images per second on one core: batched RandAugment against one image at a time through Pillow and torchvision.

    python benchmarks/augmentation.py [--batch 128] [--repeats 15]

All variants apply 4 operations at magnitude 16 to 112x112 RGB images that are already decoded, and end with one uint8
tensor [N, 3, H, W]: the input of a training step. The baselines are called once per image, as data loaders do:

- the original's loop: USynthFace's RandAugment, torchvision's functions on Pillow images, 13 operations;
- the same operations by Pillow alone, the least that a loop over Pillow images can take;
- torchvision.transforms.v2.RandAugment on tensors and on Pillow images (14 operations, other than USynthFace's).

Decoding is measured too, from JPEG (quality 95) to a batch: torchvision's decoder against `decode_images`. The variants
alternate, so that a busy machine affects all; seconds are CPU time. Printed: median and range over the repeats.
"""

import argparse
import math
import platform
import random
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import functional, v2

from facelib.augmentation import FaceAugmentation, RandAugment, TorchvisionAugmentation
from facelib.augmentation.randaugment import OPERATION_NAMES, SIGNED, magnitude_of_bin
from facelib.data import decode_images, encode_image

SIZE = 112
EXTRAS = ("shift_scale", "color_jitter", "gamma", "blur", "low_resolution", "noise", "cutout")
Rates = dict[str, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, torchvision {torchvision.__version__}, one thread")
    images = face_like_images(options.batch)
    arrays = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    extras: dict[str, Any] = dict.fromkeys(EXTRAS, 0.2)
    batched, composed = RandAugment(seed=0), FaceAugmentation(grayscale=0.2, seed=0, **extras)
    moco, own = TorchvisionAugmentation("moco_v2", seed=0), v2.RandAugment(num_ops=4, magnitude=16)
    contenders: dict[str, Callable[[], object]] = {
        "the original's loop": lambda: one_at_a_time(arrays, torchvision_operation),
        "Pillow, one image at a time": lambda: one_at_a_time(arrays, pillow_operation),
        "torchvision v2 on tensors": lambda: torch.stack([own(image) for image in images]),
        "torchvision v2 on Pillow images": lambda: stack([own(Image.fromarray(array)) for array in arrays]),
        "facelib RandAugment": lambda: batched(images),
        "facelib FaceAugmentation, all distortions at 0.2": lambda: composed(images),
        "policy moco_v2 (torchvision v2)": lambda: moco(images),
    }
    report(measure(contenders, options.batch, options.repeats), "the original's loop")
    encoded = [encode_image(array) for array in arrays]
    decoders: dict[str, Callable[[], object]] = {
        "torchvision.io.decode_jpeg": lambda: decode_by_torchvision(encoded),
        "facelib decode_images": lambda: decode_images(encoded),
    }
    print("pixels equal:", np.array_equal(decode_by_torchvision(encoded).numpy(), decode_images(encoded)))
    report(measure(decoders, options.batch, options.repeats), "torchvision.io.decode_jpeg")


def measure(contenders: dict[str, Callable[[], object]], batch: int, repeats: int) -> Rates:
    """Images per second of each, in turns."""
    rates: Rates = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if repeat:  # the first round warms up
                rates[name].append(batch / (time.process_time() - start))
    return rates


def report(rates: Rates, base_name: str) -> None:
    base = np.array(rates[base_name])
    print(f"{'':50s} {'images/s':>9s} {'range':>15s} {'times ' + base_name:>32s} {'range':>13s}")
    for name, values in rates.items():
        ratio = np.array(values) / base
        print(
            f"{name:50s} {np.median(values):9.0f} {min(values):7.0f}-{max(values):7.0f} "
            f"{np.median(ratio):32.2f} {ratio.min():6.2f}-{ratio.max():6.2f}"
        )


def face_like_images(count: int) -> torch.Tensor:
    """Smooth color images with a little noise: what compression and equalization see in photographs."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 9, 9, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic")
    noise = 6 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def one_at_a_time(arrays: list[np.ndarray], operation: Callable[[Image.Image, str, float], Image.Image]) -> Any:
    """The data loader's way: array to Pillow, four operations, back to a tensor, and the batch stacked."""
    augmented = []
    for array in arrays:
        image = Image.fromarray(array)
        for _ in range(4):
            name = random.choice(OPERATION_NAMES)
            magnitude = MAGNITUDES[name][random.randint(1, 16)]
            if name in SIGNED and random.random() < 0.5:
                magnitude = -magnitude
            image = operation(image, name, magnitude)
        augmented.append(image)
    return stack(augmented)


def stack(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


MAGNITUDES = {name: magnitude_of_bin(name, np.arange(31.0), SIZE).tolist() for name in OPERATION_NAMES}


def torchvision_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """What USynthFace's RandAugment calls."""
    still: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    match name:
        case "ShearX":
            shear = {"shear": [math.degrees(math.atan(magnitude)), 0.0], "center": [0, 0]}
            return functional.affine(image, **{**still, **shear})
        case "TranslateX":
            return functional.affine(image, **{**still, "translate": [int(magnitude), 0]})
        case "Rotate":
            return functional.rotate(image, magnitude)
        case "Brightness":
            return functional.adjust_brightness(image, 1 + magnitude)
        case "Color":
            return functional.adjust_saturation(image, 1 + magnitude)
        case "Contrast":
            return functional.adjust_contrast(image, 1 + magnitude)
        case "Sharpness":
            return functional.adjust_sharpness(image, 1 + magnitude)
        case "Posterize":
            return functional.posterize(image, int(magnitude))
        case "Solarize":
            return functional.solarize(image, magnitude)
        case "AutoContrast":
            return functional.autocontrast(image)
        case "Equalize":
            return functional.equalize(image)
        case "Grayscale":
            return functional.rgb_to_grayscale(image, 3)
        case _:
            return image


def pillow_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    match name:
        case "ShearX":
            return image.transform(image.size, Image.Transform.AFFINE, (1, magnitude, 0, 0, 1, 0))
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


def decode_by_torchvision(encoded: list[bytes]) -> torch.Tensor:
    jpegs = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in encoded]
    return torch.stack(torchvision.io.decode_jpeg(jpegs, torchvision.io.ImageReadMode.RGB))


if __name__ == "__main__":
    main()
