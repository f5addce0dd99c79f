"""Mapping and synthesis against what the original code computed on TensorFlow 1.12; TensorFlow is not needed here."""

import hashlib
import json
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facelib.synthesis.discofacegan import DiscoFaceGAN, NetworkTables, read_network_pickle
from facelib.synthesis.discofacegan.networks import up_kernel
from facelib.synthesis.discofacegan.topology import Topology


@pytest.fixture(scope="module")
def generator(golden, tiny) -> DiscoFaceGAN:
    return DiscoFaceGAN(read_network_pickle(golden / "tiny_r32.pkl"), tiny["average_w_id"], batch_size=4)


def test_smallest_example(golden, tiny):
    generator = DiscoFaceGAN(read_network_pickle(golden / "tiny_r32.pkl"), tiny["average_w_id"])
    images = generator.synthesize(tiny["coeff"], truncation=0.7)
    assert images.shape == (4, 32, 32, 3)
    assert_same_pictures(images, tiny["images_uint8"])


def assert_same_pictures(images: np.ndarray, expected: np.ndarray) -> None:
    assert images.dtype == np.uint8
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_style_vectors(generator, tiny):
    np.testing.assert_allclose(generator.map(tiny["coeff"]), tiny["dlatents"], rtol=0, atol=1e-5)
    identity = np.pad(tiny["coeff"][:, :160], [(0, 0), (0, 126)])
    np.testing.assert_allclose(generator.map(identity), tiny["dlatents_id"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(generator.truncate(tiny["coeff"]), tiny["dlatents_final"], rtol=0, atol=1e-5)


def test_raw_pictures(generator, tiny):
    raw = generator.synthesize_raw(tiny["dlatents_final"])
    np.testing.assert_allclose(raw.transpose(0, 3, 1, 2), tiny["raw_nchw"], rtol=0, atol=3e-5)
    untruncated = generator.synthesize_raw(generator.truncate(tiny["coeff"], truncation=1))
    np.testing.assert_allclose(untruncated.transpose(0, 3, 1, 2), tiny["raw_nchw_Gs"], rtol=0, atol=3e-5)


@pytest.mark.parametrize("lod", ["0.3", "1.0", "1.7", "3.0"])
def test_levels_of_detail(generator, tiny, lod):
    raw = generator.synthesize_raw(tiny["dlatents_final"], lod=float(lod))
    np.testing.assert_allclose(raw.transpose(0, 3, 1, 2), tiny[f"raw_nchw_lod{lod}"], rtol=0, atol=3e-5)


def test_level_of_detail_of_the_file_is_used(golden, tiny):
    networks = read_network_pickle(golden / "tiny_r32.pkl")
    networks.variables["G_synthesis/lod"] = np.float32(1.7)
    images = DiscoFaceGAN(networks, tiny["average_w_id"], batch_size=4).synthesize(tiny["coeff"])
    raw = tiny["raw_nchw_lod1.7"].transpose(0, 2, 3, 1)
    assert_same_pictures(images, np.clip((raw + 1) * 127.5, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("fused", [True, False])
def test_steps_up_equal_the_two_definitions(fused):
    """Nearest upscaling and a convolution, and the zero-padded kernel's four shifts, by loops in float64."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(5, 5)), rng.normal(size=(3, 3))
    expected = np.zeros((10, 10))
    if fused:
        padded = np.pad(kernel, 1)
        four = sum(padded[a : a + 4, b : b + 4] for a in (0, 1) for b in (0, 1))
        full = np.zeros((12, 12))
        for i in range(5):
            for j in range(5):
                full[2 * i : 2 * i + 4, 2 * j : 2 * j + 4] += x[i, j] * four
        expected = full[1:-1, 1:-1]
    else:
        large = np.pad(x.repeat(2, 0).repeat(2, 1), 1)
        for i in range(10):
            for j in range(10):
                expected[i, j] = (large[i : i + 3, j : j + 3] * kernel).sum()
    weight = torch.from_numpy(up_kernel(kernel[:, :, None, None], fused))
    image = torch.from_numpy(x)[None, None]
    result = F.conv_transpose2d(image, weight, stride=2, padding=1).numpy()[0, 0]
    np.testing.assert_allclose(result, expected, atol=1e-12)


def full_size_networks(golden) -> NetworkTables:
    """The published topology with the golden data's weights: frozen random streams, checked by their SHA-256."""
    expected = json.loads((golden / "full_r256_variables.json").read_text())
    variables = {}
    for full, shape in Topology(256).variables().items():
        name = full.split("/", 1)[-1]
        path = "Gs/" + full.split("/")[0] if "/" in full else "Gs"
        value = full_size_value(path, name, shape)
        assert hashlib.sha256(value.tobytes()).hexdigest() == expected[full]["sha256"], full
        variables[full] = value
    assert variables.keys() == expected.keys()
    return NetworkTables("Gs", 3, {"resolution": 256}, variables)


def full_size_value(path: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    last, scale = name.split("/")[-1], 1.0
    if last == "lod":
        return np.float32(0)
    if path.endswith("G_mapping"):
        scale = 100.0 if last == "weight" else 20.0  # stored times 100: the learning rate multiplier is 0.01
    elif name.startswith("ToRGB"):
        scale = 0.25 if last == "weight" else 0.05
    elif last in ("bias", "dlatent_avg") or name.endswith("Noise/weight"):
        scale = 0.3
    stream = np.random.RandomState(zlib.crc32(f"{path}/{name}".encode()) & 0x7FFFFFFF)
    return (stream.standard_normal(shape) * scale).astype(np.float32)


@pytest.mark.slow
def test_published_size(golden):
    """256 pixels, 14 layers, with both kinds of steps up: 26 million weights."""
    with np.load(golden / "full_r256.npz") as file:
        expected = dict(file)
    networks = full_size_networks(golden)
    generator = DiscoFaceGAN(networks, expected["average_w_id"], batch_size=2)
    np.testing.assert_allclose(generator.map(expected["coeff"]), expected["dlatents"], rtol=0, atol=1e-5)
    styles = generator.truncate(expected["coeff"])
    np.testing.assert_allclose(styles[:, [0, 8]], expected["dlatents_final"], rtol=0, atol=1e-5)
    raw = generator.synthesize_raw(styles)
    np.testing.assert_allclose(raw.transpose(0, 3, 1, 2)[:, :, ::4, ::4], expected["raw_nchw_sub4"], rtol=0, atol=3e-5)
    faster = DiscoFaceGAN(networks, expected["average_w_id"], batch_size=2, channels_last=True)
    np.testing.assert_allclose(faster.synthesize_raw(styles), raw, rtol=0, atol=6e-5)
    np.testing.assert_allclose(raw.mean((1, 2)), expected["raw_mean"], atol=1e-5)
    np.testing.assert_allclose(raw.std((1, 2)), expected["raw_std"], atol=1e-5)
    assert_same_pictures(generator.synthesize(expected["coeff"]), expected["images_uint8"])


def test_a_picture_depends_on_its_own_row_only(generator, tiny):
    together = generator.synthesize(tiny["coeff"])
    np.testing.assert_array_equal(generator.synthesize(tiny["coeff"][::-1])[::-1], together)
    np.testing.assert_array_equal(generator.synthesize(np.tile(tiny["coeff"], (3, 1))[:9])[4:8], together)
    for row in range(4):
        np.testing.assert_array_equal(generator.synthesize(tiny["coeff"][row : row + 1])[0], together[row])


def test_truncation_draws_identities_together(generator, tiny):
    np.testing.assert_allclose(
        generator.truncate(tiny["coeff"], truncation=1)[:, 0], generator.map(tiny["coeff"]), rtol=0, atol=1e-6
    )
    identity_only = np.pad(tiny["coeff"][:, :160], [(0, 0), (0, 126)])
    collapsed = generator.truncate(identity_only, truncation=0)
    np.testing.assert_allclose(collapsed, np.broadcast_to(tiny["average_w_id"], collapsed.shape), rtol=0, atol=1e-5)


def test_bfloat16_is_close_but_not_equal(golden, tiny):
    networks = read_network_pickle(golden / "tiny_r32.pkl")
    generator = DiscoFaceGAN(networks, tiny["average_w_id"], batch_size=4, bfloat16=True)
    raw = generator.synthesize_raw(tiny["dlatents_final"]).transpose(0, 3, 1, 2)
    error = np.abs(raw - tiny["raw_nchw"])
    assert 1e-4 < error.max() < 0.1


def test_average_may_have_a_row_for_each_layer(golden, tiny):
    networks = read_network_pickle(golden / "tiny_r32.pkl")
    generator = DiscoFaceGAN(networks, np.tile(tiny["average_w_id"], (8, 1)), batch_size=4)
    np.testing.assert_allclose(generator.truncate(tiny["coeff"]), tiny["dlatents_final"], rtol=0, atol=1e-5)


def test_wrong_arguments_are_named(golden, generator, tiny):
    networks = read_network_pickle(golden / "tiny_r32.pkl")
    with pytest.raises(ValueError, match=r"average_w_id has shape \(512,\), expected \(16,\)"):
        DiscoFaceGAN(networks, np.zeros(512))
    with pytest.raises(ValueError, match="average_w_id holds values that are not finite"):
        DiscoFaceGAN(networks, np.full(16, np.nan))
    with pytest.raises(ValueError, match="batch_size is 0"):
        DiscoFaceGAN(networks, tiny["average_w_id"], batch_size=0)
    with pytest.raises(ValueError, match="device is 'tpu'"):
        DiscoFaceGAN(networks, tiny["average_w_id"], device="tpu")
    with pytest.raises(ValueError, match=r"coefficients has shape \(4, 285\), expected \[N, 286\]"):
        generator.synthesize(tiny["coeff"][:, :-1])
    with pytest.raises(ValueError, match="coefficients holds values that are not finite"):
        generator.synthesize(np.full((1, 286), np.inf))
    with pytest.raises(ValueError, match=r"truncation is 1\.5"):
        generator.synthesize(tiny["coeff"], truncation=1.5)
    with pytest.raises(ValueError, match="lod is 4"):
        generator.synthesize_raw(tiny["dlatents_final"], lod=4)
    with pytest.raises(ValueError, match="give one or more"):
        generator.synthesize(np.zeros((0, 286)))
