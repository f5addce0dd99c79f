import numpy as np
import pytest
import torch

from facelib.synthesis.mobilestylegan import readout as module
from facelib.synthesis.mobilestylegan.fit_readout import psnr, sample
from facelib.synthesis.mobilestylegan.readout import Readout, load_readout, save_readout
from facelib.synthesis.mobilestylegan.weights import Weights


@pytest.mark.parametrize(("cut", "channels"), [(64, 512), (128, 256)])
def test_shipped_readouts_double_the_features(cut: int, channels: int) -> None:
    images = load_readout(cut)(torch.randn(2, channels, 16, 16), torch.randn(2, 512))
    assert images.shape == (2, 3, 32, 32)
    assert images.isfinite().all()


@pytest.mark.parametrize(("cut", "least"), [(64, 23), (128, 21)])
@pytest.mark.slow
def test_shipped_readouts_are_near_the_whole_network(weights: Weights, cut: int, least: float) -> None:
    """Images that were not fitted, against those of the whole network; docs/results.md has the mean of many."""
    samples = sample(cut, 4, seed=77)
    readout = load_readout(cut)
    with torch.inference_mode():
        values = [psnr(readout(f[None].float(), w[None])[0], i.float()) for f, w, i, _ in zip(*samples)]
    assert np.mean(values) > least


def test_hardly_a_grid(weights: Weights) -> None:
    """Steps between pixels within the 2 × 2 of a feature are less than 20 % smaller than those across."""
    features, w, images, _ = sample(64, 3, seed=78)
    with torch.inference_mode():
        made = load_readout(64)(features.float(), w).clamp(-1, 1)
    for dim in (2, 3):
        steps = made.diff(dim=dim).abs().mean((0, 1, 5 - dim))
        true = images.float().diff(dim=dim).abs().mean((0, 1, 5 - dim))
        ratio = steps[::2].mean() / steps[1::2].mean()
        assert abs(ratio / (true[::2].mean() / true[1::2].mean()) - 1) < 0.2


def test_saved_and_loaded(tmp_path, monkeypatch) -> None:
    torch.manual_seed(0)
    fitted = Readout(8, hidden=4)
    save_readout(fitted, str(tmp_path / "readout_64.npz"))
    monkeypatch.setattr(module, "files", lambda package: tmp_path)
    features, w = torch.randn(1, 8, 6, 6), torch.randn(1, 512)
    with torch.inference_mode():
        torch.testing.assert_close(load_readout(64)(features, w), fitted(features, w), atol=5e-3, rtol=5e-3)
    with pytest.raises(ValueError, match="cut is 32"):
        load_readout(32)
