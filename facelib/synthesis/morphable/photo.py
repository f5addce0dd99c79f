"""The camera after the lens: exposure, white balance, contrast, blur, low resolution, noise and JPEG.

Images are float32 [R, R, 3] 0..1 as displayed; the result is uint8.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Array = npt.NDArray[Any]


def develop(image: Array, z: dict[str, float], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Degrade a clean image as cameras do; `z` holds one normal number for each of the names used here."""
    size = image.shape[0]
    image = _tone(image, z)
    image = _blur(image, z, rng, size / 128.0)
    noise = 0.003 + 0.017 * float(ndtr(z["grain"])) ** 4
    grain = rng.standard_normal((size, size, 3), dtype=np.float32)
    if z["grain"] > 0.8:
        grain = cv2.GaussianBlur(grain, (0, 0), 0.7) * 1.8
    image = image + grain * noise
    out = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    quality = int(np.clip(88 - 42 * max(0.0, z["jpeg"]) + 6 * min(0.0, z["jpeg"]), 22, 95))
    if z["jpeg"] > -0.5:
        _, data = cv2.imencode(".jpg", out, [cv2.IMWRITE_JPEG_QUALITY, quality])
        out = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
    return out


def _tone(image: Array, z: dict[str, float]) -> Array:
    warm, green = 0.036 * z["white_balance"], 0.02 * z["tint"]
    gain = np.array([1 + warm, 1 + green, 1 - 1.2 * warm], np.float32) * np.exp(0.07 * z["brightness"])
    image = image * gain.astype(np.float32)
    gray = image @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if z["saturation"] > 2.05 else float(np.clip(1.10 + 0.2 * z["saturation"], 0.3, 1.6))
    image = gray[..., None] + saturation * (image - gray[..., None])
    contrast = float(np.exp(0.17 + 0.11 * z["contrast"]))
    image = 0.45 + contrast * (image - 0.45)
    return np.clip(image, 0, 1) ** float(np.exp(0.10 * z["gamma"]))


def _blur(image: Array, z: dict[str, float], rng: np.random.Generator, scale: float) -> Array:
    size = image.shape[0]
    if z["low_resolution"] > 1.1:
        small = max(24, int(size / (1.0 + 0.6 * min(2.0, z["low_resolution"] - 0.7))))
        kind = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
        image = cv2.resize(
            cv2.resize(image, (small, small), interpolation=kind), (size, size), interpolation=cv2.INTER_CUBIC
        )
    sigma = scale * 0.38 * np.exp(0.42 * z["focus"])
    if z["motion"] > 1.7:
        length = round(scale * min(9.0, 3 + 4 * (z["motion"] - 1.7))) | 1
        angle = rng.uniform(0, np.pi)
        kernel = np.zeros((length, length), np.float32)
        middle = length // 2
        dx, dy = round(float(np.cos(angle)) * middle), round(float(np.sin(angle)) * middle)
        cv2.line(kernel, (middle - dx, middle - dy), (middle + dx, middle + dy), 1.0, 1)
        image = cv2.filter2D(image, -1, kernel / kernel.sum())
    if sigma > 0.3:
        image = cv2.GaussianBlur(image, (0, 0), float(min(sigma, 1.7 * scale)))
    return image
