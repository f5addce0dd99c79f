"""Throughput of the generator mobilestylegan on one core, and what an H100 would make by arithmetic.

    python benchmarks/mobilestylegan.py --images 24 --repeats 3

Images per CPU second of this process (one thread), from latents to pixels, median and range over the repeats, for each
size and precision. Then the multiplications and the bytes that one image costs: a GPU takes at least the larger of
multiplications / its matrix rate and bytes / its memory rate. Bytes count every tensor that an operation reads or
writes, as PyTorch runs them, nothing fused. The GPU's rates are its data sheet's times the share given.
"""

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn

from facelib.synthesis.mobilestylegan.generator import MobileStyleGANGenerator, cpu_threads
from facelib.synthesis.mobilestylegan.networks import Conv2d, SynthesisNetwork, inverse_haar, style_count
from facelib.synthesis.mobilestylegan.readout import load_readout
from facelib.synthesis.mobilestylegan.weights import load_weights

H100_BF16, H100_BYTES = 989e12, 3.35e12  # dense matrix operations and bytes a second, SXM


def main() -> None:
    """Measure, count and compute."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=float, default=0.3, help="of the H100's rates that is reached")
    arguments = parser.parse_args()
    for size in (128, 256):
        for precision in ("float32", "bfloat16"):
            rates = measure(size, precision, arguments.images, arguments.repeats)
            spread = f"{min(rates):.1f} to {max(rates):.1f}"
            print(f"{size} pixels, {precision}: {np.median(rates):.1f} images per CPU second ({spread})")
        products, moved = costs(size // 2)
        seconds = max(2 * products / H100_BF16, moved / H100_BYTES) / arguments.share
        print(
            f"{size} pixels, bfloat16: {products / 1e9:.2f} G multiplications, {moved / 1e6:.0f} MB moved an image; "
            f"H100 at {arguments.share:.0%} of its rates: {1 / seconds:,.0f} images a second (computed, not measured)"
        )


def measure(size: int, precision: str, images: int, repeats: int) -> list[float]:
    """Images per CPU second."""
    generator = MobileStyleGANGenerator(image_size=size, precision=precision, device="cpu")
    identities, indices = np.arange(images) // 8, np.arange(images) % 8
    codes, factors = generator.identity_codes(0, identities), generator.image_factors(0, identities, indices)
    generator.render(codes[:2], factors[:2])
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        generator.render(codes, factors)
        rates.append(images / (time.process_time() - start))
    return rates


def costs(cut: int) -> tuple[int, int]:
    """Multiplications in convolutions, and bytes read and written in bfloat16, of one image."""
    network, readout = SynthesisNetwork(load_weights().tables, cut), load_readout(cut)
    products = moved = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal products, moved
        if isinstance(module, Conv2d):
            weight = module.get_buffer("weight")
            products += weight.numel() * output[0, 0].numel()
            # Its input is scaled before, its output gets noise and an activation: two passes each, in and out.
            moved += 2 * (3 * inputs[0].numel() + weight.numel() + 5 * output.numel())

    for module in [*network.modules(), *readout.modules()]:
        module.register_forward_hook(count)
    with torch.inference_mode(), cpu_threads(1):
        w = torch.zeros(1, style_count(cut), 512)
        features = network(w)
        readout(features, w[:, -1])
        moved += 2 * 8 * inverse_haar(features).numel()
    return products, moved


if __name__ == "__main__":
    main()
