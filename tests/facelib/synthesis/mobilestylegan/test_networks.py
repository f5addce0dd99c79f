from pathlib import Path

import numpy as np
import pytest
import torch

from facelib.synthesis.mobilestylegan.networks import (
    STYLE_LAYERS,
    Conv2d,
    MappingNetwork,
    SynthesisNetwork,
    band_order,
    inverse_haar,
    style_count,
)
from facelib.synthesis.mobilestylegan.weights import Weights

GOLDEN = np.load(Path(__file__).parents[3] / "golden" / "mobilestylegan" / "openvino.npz")


@pytest.fixture(scope="module")
def styles() -> torch.Tensor:
    """The three golden style sets [3, 23, 512]."""
    w = torch.from_numpy(GOLDEN["w"])
    return torch.stack([w[:1].expand(23, -1), w[1:2].expand(23, -1), w[GOLDEN["order"]]])


@pytest.fixture(scope="module", autouse=True)
def _no_gradients():
    with torch.inference_mode():
        yield


def test_mapping_equals_openvino(weights: Weights) -> None:
    w = MappingNetwork(weights.tables)(torch.from_numpy(GOLDEN["z"]))
    np.testing.assert_allclose(w, GOLDEN["w"], atol=1e-4)


def test_images_equal_openvino(weights: Weights, styles: torch.Tensor) -> None:
    network = SynthesisNetwork(weights.tables)
    for row, expected, patch in zip(styles, GOLDEN["grid"], GOLDEN["patch"], strict=True):
        image = network(row[None])[0].numpy()
        assert image.shape == (3, 1024, 1024)
        np.testing.assert_allclose(image[:, ::32, ::32], expected, atol=1e-3)
        np.testing.assert_allclose(image[:, 470:502, 370:402], patch, atol=1e-3)


@pytest.mark.parametrize("cut", [64, 128])
def test_features_equal_openvino(weights: Weights, styles: torch.Tensor, cut: int) -> None:
    network = SynthesisNetwork(weights.tables, cut)
    rows = styles[:, : style_count(cut)]
    features = network(rows)
    # Ours are scaled by the next layer's style, halved and grouped by band; OpenVINO's are taken before that.
    scale = network.up(torch.ones(3, network.up.own.affine.get_buffer("bias").numel(), 1, 1), rows[:, -2], rows[:, -1])
    plain = torch.empty_like(features)
    plain[:, band_order(features.shape[1])] = features / scale
    expected = GOLDEN[f"features_{cut}"]
    error = plain[:, ::16, ::8, ::8].numpy() - expected
    assert np.abs(error).max() < 1e-3 * np.abs(expected).max()


def test_features_depend_on_as_many_styles_as_are_counted(weights: Weights, styles: torch.Tensor) -> None:
    assert len(STYLE_LAYERS) == 23
    assert [style_count(cut) for cut in (64, 128)] == [15, 18]
    assert STYLE_LAYERS[style_count(64) - 1] == ("layers.4.conv1", 128)


def test_bfloat16_is_close(weights: Weights, styles: torch.Tensor) -> None:
    rows = styles[:1, : style_count(64)]
    exact = SynthesisNetwork(weights.tables, 64)(rows)
    rough = SynthesisNetwork(weights.tables, 64).set_precision(torch.bfloat16)(rows)
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert error < 0.03


def test_features_are_channels_last(weights: Weights, styles: torch.Tensor) -> None:
    features = SynthesisNetwork(weights.tables, 64)(styles[:2, : style_count(64)])
    assert features.is_contiguous(memory_format=torch.channels_last)


def test_inverse_haar_undoes_the_transform() -> None:
    image = torch.randn(2, 5, 8, 6, dtype=torch.float64)
    a, b = image[..., ::2, ::2], image[..., ::2, 1::2]
    c, d = image[..., 1::2, ::2], image[..., 1::2, 1::2]
    bands = torch.cat([a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d], 1) / 2
    torch.testing.assert_close(inverse_haar(bands / 2), image)


def test_convolution_equals_pytorch() -> None:
    random = np.random.default_rng(0)
    x = torch.randn(2, 6, 9, 9).contiguous(memory_format=torch.channels_last)
    for shape, groups in (((4, 6, 1, 1), 1), ((4, 6, 3, 3), 1), ((6, 1, 3, 3), 6)):
        weight = random.standard_normal(shape).astype(np.float32)
        bias = random.standard_normal(shape[0]).astype(np.float32)
        expected = torch.nn.functional.conv2d(
            x.double(), torch.tensor(weight).double(), torch.tensor(bias).double(), padding=shape[2] // 2, groups=groups
        )
        torch.testing.assert_close(Conv2d(weight, bias, groups)(x).double(), expected, atol=1e-5, rtol=1e-5)


def test_an_unknown_cut_is_refused(weights: Weights) -> None:
    with pytest.raises(ValueError, match="cut is 32: choose one of 64, 128"):
        SynthesisNetwork(weights.tables, 32)
