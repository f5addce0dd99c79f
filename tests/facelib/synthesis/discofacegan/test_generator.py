"""DiscoFaceGAN behind the interface of all generators."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facelib.synthesis import FaceGenerator, available_generators, build_generator, factor_slices

ROOT = Path(__file__).parents[4]
GOLDEN = ROOT / "tests" / "golden" / "discofacegan"


def test_smallest_example(converted):
    generator = build_generator("discofacegan", folder=str(converted))
    identities, indices = np.array([3, 3, 4]), np.array([0, 1, 0])
    codes = generator.identity_codes(0, identities)
    factors = generator.image_factors(0, identities, indices)
    images = generator.render(codes, factors)
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    assert isinstance(generator, FaceGenerator)
    assert (codes.shape, factors.shape) == ((3, 128), (3, 83))
    assert generator.factors == {"expression": 32, "illumination": 16, "rotation": 3, "noise": 32}
    assert generator.identities is None
    assert generator.weights_hash is not None
    assert "non-commercial" in generator.license
    assert "discofacegan" in available_generators()
    np.testing.assert_array_equal(codes[0], codes[1])
    assert (images[0] != images[1]).any()


def test_a_picture_is_a_function_of_its_own_latents(converted):
    """Not of the batch, its order, or how the work is divided."""
    generator = build_generator("discofacegan", folder=str(converted), batch_size=4)
    identities, indices = np.repeat(np.arange(3), 3), np.tile(np.arange(3), 3)
    codes, factors = generator.identity_codes(7, identities), generator.image_factors(7, identities, indices)
    images = generator.render(codes, factors)
    np.testing.assert_array_equal(generator.render(codes[::-1], factors[::-1])[::-1], images)
    np.testing.assert_array_equal(generator.render(codes[4:5], factors[4:5])[0], images[4])
    again = build_generator("discofacegan", folder=str(converted), batch_size=4)
    np.testing.assert_array_equal(again.render(codes[6:], factors[6:]), images[6:])
    assert generator.render(codes[:0], factors[:0]).shape == (0, 32, 32, 3)


def test_every_factor_changes_the_picture(converted):
    generator = build_generator("discofacegan", folder=str(converted))
    codes = generator.identity_codes(0, np.zeros(5, int))
    factors = generator.image_factors(0, np.zeros(5, int), np.zeros(5, int))
    other = generator.image_factors(0, np.zeros(1, int), np.ones(1, int))
    for row, part in enumerate(factor_slices(generator.factors).values(), start=1):
        factors[row, part] = other[0, part]
    images = generator.render(codes, factors)
    assert len({image.tobytes() for image in images}) == 5


def test_pictures_of_the_published_stream(converted, golden):
    """The stream's numbers go through decoders and networks as the original code's do."""
    from facelib.synthesis.discofacegan import DiscoFaceGAN, LatentDecoders
    from facelib.synthesis.discofacegan.weights import load_weights

    generator = build_generator("discofacegan", folder=str(converted), latents="usynthface", stream_images=3)
    identities, indices = np.repeat([0, 1], 3), np.tile([0, 1, 2], 2)
    images = generator.render(
        generator.identity_codes(42, identities), generator.image_factors(42, identities, indices)
    )
    weights = load_weights(converted)
    with np.load(golden / "usynth_stream.npz") as stream:
        latents, noise = stream["factor0_latents"].reshape(6, 179), stream["factor0_noise"].reshape(6, 32)
    coefficients = LatentDecoders(weights.decoders).decode(latents, noise)
    expected = DiscoFaceGAN(weights.networks, weights.average_w_id).synthesize(coefficients)
    difference = np.abs(images.astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3
    assert generator.identities == 1_000_000


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("truncation", 1.1, r"truncation is 1\.1"),
        ("batch_size", 0, "batch_size is 0"),
        ("device", "gpu", "device is 'gpu'.*'cuda'"),
        ("latents", "other", "latents is 'other'.*usynthface"),
        ("factor_mode", 1, "factor_mode is 1: it needs latents='usynthface'"),
    ],
)
def test_bad_settings_are_named(converted, setting, value, message):
    with pytest.raises(ValueError, match=message):
        build_generator("discofacegan", folder=str(converted), **{setting: value})


def test_default_batch_size_depends_on_the_device_only(converted):
    generator = build_generator("discofacegan", folder=str(converted), device="cpu")
    codes = generator.identity_codes(0, np.arange(3))
    factors = generator.image_factors(0, np.arange(3), np.zeros(3, int))
    chosen = build_generator("discofacegan", folder=str(converted), batch_size=8)
    np.testing.assert_array_equal(generator.render(codes, factors), chosen.render(codes, factors))


def test_wrong_latents_are_named(converted):
    generator = build_generator("discofacegan", folder=str(converted))
    with pytest.raises(ValueError, match=r"codes \(1, 127\) and factors \(1, 83\)"):
        generator.render(np.zeros((1, 127)), np.zeros((1, 83)))
    with pytest.raises(ValueError, match="not finite"):
        generator.render(np.full((1, 128), np.nan), np.zeros((1, 83)))


def test_missing_weights_and_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="MISSING  vae/weights/id"):
        build_generator("discofacegan", folder=str(tmp_path))
    with pytest.raises(ValueError, match="needs the setting 'folder'"):
        build_generator("discofacegan")


def test_weights_that_change_under_it_are_refused(converted, tmp_path, published):
    from facelib.synthesis.discofacegan.convert import convert

    folder = shutil.copytree(converted, tmp_path / "changing")
    generator = build_generator("discofacegan", folder=str(folder))
    average = published / "network-snapshot-020126-average_w_id.txt"
    np.savetxt(average, np.loadtxt(average) + 1)
    shutil.copy(convert(published), folder)
    with pytest.raises(ValueError, match="have changed"):
        generator.render(np.zeros((1, 128)), np.zeros((1, 83)))


@pytest.mark.slow
def test_without_tensorflow(converted):
    """Neither images nor the conversion of the published files need it."""
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import numpy\n"
        "from facelib.synthesis import build_generator\n"
        "from facelib.synthesis.discofacegan import read_decoder_checkpoint\n"
        f"generator = build_generator('discofacegan', folder={str(converted)!r})\n"
        "codes = generator.identity_codes(0, numpy.arange(2))\n"
        "factors = generator.image_factors(0, numpy.arange(2), numpy.zeros(2, int))\n"
        "assert generator.render(codes, factors).std() > 1\n"
        f"read_decoder_checkpoint({str(GOLDEN / 'vae_tiny/id/stage1_epoch_395.ckpt')!r}, 'id')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
