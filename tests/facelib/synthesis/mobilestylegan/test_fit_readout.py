import numpy as np
import pytest
import torch

from facelib.synthesis.mobilestylegan.fit_readout import Samples, fit, psnr, sample
from facelib.synthesis.mobilestylegan.weights import Weights


@pytest.mark.slow
def test_a_readout_is_learned_with_its_style() -> None:
    """Images that are a linear function of features of very different sizes, and a color that w decides."""
    random = np.random.default_rng(0)
    count, size = 48, 8
    scales = np.logspace(-1, 1, 6)[:, None, None]
    features = torch.tensor(random.standard_normal((count, 6, size, size)) * scales, dtype=torch.float32)
    w = torch.tensor(random.standard_normal((count, 512)), dtype=torch.float32)
    mixing = torch.tensor(random.standard_normal((12, 6)) / scales[:, 0, 0] * 0.1, dtype=torch.float32)
    bands = torch.einsum("kc,ncyx->nkyx", mixing, features)
    images = torch.nn.functional.pixel_shuffle(bands, 2) + 0.3 * w[:, :3, None, None]
    everywhere = torch.ones(count, 1, 2 * size, 2 * size, dtype=torch.bool)
    readout = fit(Samples(features.bfloat16(), w, images.half(), everywhere), steps=300, batch_size=16, seed=0)
    with torch.inference_mode():
        made = readout(features, w)
    assert psnr(made, images) > psnr(images.mean(0, keepdim=True).expand_as(images), images) + 8

    # Going on from it begins where it ended, and ends after the time that it is given.
    samples = Samples(features.bfloat16(), w, images.half(), everywhere)
    further = fit(samples, steps=10**9, batch_size=16, seed=1, start=readout, minutes=0.02)
    with torch.inference_mode():
        assert psnr(further(features, w), images) > psnr(made, images) - 0.5


def test_only_pixels_inside_count() -> None:
    """Images that are nonsense outside `inside` are learned as if they were not."""
    random = np.random.default_rng(1)
    features = torch.tensor(random.standard_normal((32, 6, 8, 8)), dtype=torch.float32)
    w = torch.tensor(random.standard_normal((32, 512)), dtype=torch.float32)
    images = torch.nn.functional.pixel_shuffle(features.repeat(1, 2, 1, 1) * 0.2, 2)
    inside = torch.zeros(32, 1, 16, 16, dtype=torch.bool)
    inside[:, :, 4:-4, 4:-4] = True
    wrong = torch.where(inside, images, torch.tensor(random.standard_normal(images.shape), dtype=torch.float32))
    readout = fit(Samples(features.bfloat16(), w, wrong.half(), inside), steps=200, batch_size=16, seed=0)
    with torch.inference_mode():
        made = readout(features, w)
    assert psnr(made[:, :, 4:-4, 4:-4], images[:, :, 4:-4, 4:-4]) > 25


def test_samples_are_crops_of_one_place(weights: Weights) -> None:
    whole, part = sample(64, 1, seed=5), sample(64, 1, seed=5, crop=32)
    assert whole.features.shape == (1, 512, 64, 64)
    assert part.features.shape == (1, 512, 32, 32)
    assert part.images.shape == (1, 3, 64, 64)
    places = [
        (y, x)
        for y in range(33)
        for x in range(33)
        if torch.equal(whole.features[0, :, y : y + 32, x : x + 32], part.features[0])
    ]
    ((y, x),) = places
    assert torch.equal(whole.images[0, :, 2 * y : 2 * y + 64, 2 * x : 2 * x + 64], part.images[0])
    assert whole.inside.all()
    rows, columns = (slice(4 * (n > 0), 64 - 4 * (n < 32)) for n in (y, x))
    assert part.inside[0, 0, rows, columns].all()
    assert part.inside.sum() == part.inside[0, 0, rows, columns].sum()


def test_psnr() -> None:
    assert psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.02)) == pytest.approx(40, abs=1e-3)
