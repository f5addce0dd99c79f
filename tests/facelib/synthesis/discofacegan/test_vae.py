"""The four decoders against what the original code computed, and damaged checkpoints."""

import shutil

import numpy as np
import pytest

from facelib.synthesis.discofacegan import LatentDecoders, read_decoder_checkpoint
from facelib.synthesis.discofacegan.vae import FACTORS


@pytest.fixture(scope="module")
def tables(golden):
    return {f: read_decoder_checkpoint(golden / "vae_tiny" / f / "stage1_epoch_395.ckpt", f) for f in FACTORS}


def test_smallest_example(golden, tables):
    with np.load(golden / "vae.npz") as expected:
        latents = np.concatenate([expected[f"{f}_z"] for f in ("id", "exp", "gamma", "rot")], axis=1)
        noise = np.arange(5 * 32, dtype=np.float32).reshape(5, 32)
        coefficients = LatentDecoders(tables).decode(latents, noise)
        # Rotation stands before illumination here, after it in the latents.
        order = [expected[f"{f}_lambda"] for f in ("id", "exp", "rot", "gamma")]
    assert coefficients.shape == (5, 286)
    np.testing.assert_allclose(coefficients, np.concatenate([*order, noise], axis=1), rtol=0, atol=1e-5)


def test_wrong_shapes_are_named(tables):
    with pytest.raises(ValueError, match=r"latents \(2, 178\)"):
        LatentDecoders(tables).decode(np.zeros((2, 178)), np.zeros((2, 32)))


def test_checkpoint_of_another_factor(golden):
    with pytest.raises(ValueError, match="has no variable id/stage1/decoder/fc0/kernel; is it the id checkpoint"):
        read_decoder_checkpoint(golden / "vae_tiny" / "exp" / "stage1_epoch_395.ckpt", "id")


@pytest.mark.parametrize("end", ["index", "data-00000-of-00001"])
def test_damaged_checkpoints(golden, tmp_path, end):
    folder = shutil.copytree(golden / "vae_tiny" / "rot", tmp_path / "rot")
    damaged = folder / f"stage1_epoch_395.ckpt.{end}"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"stage1_epoch_395\.ckpt: "):
        read_decoder_checkpoint(folder / "stage1_epoch_395.ckpt", "rot")


def test_tables_that_do_not_fit(tables):
    wrong = {**tables, "rot": {**tables["rot"], "x_hat/bias": np.zeros(4, np.float32)}}
    with pytest.raises(ValueError, match="rot x_hat has kernel"):
        LatentDecoders(wrong)
    wrong = {**tables, "exp": {**tables["exp"], "fc1/bias": np.full(16, np.nan, np.float32)}}
    with pytest.raises(ValueError, match="exp fc1 holds values that are not finite"):
        LatentDecoders(wrong)
