"""USynthFace's stream against the feeds recorded from its own script."""

import numpy as np
import pytest

from facelib.synthesis.discofacegan import USynthFaceStream


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_smallest_example(golden, mode):
    stream = USynthFaceStream(images=3, factor_mode=mode)
    with np.load(golden / "usynth_stream.npz") as expected:
        for identity in (0, 1):
            latents, noise = stream.draw(42, identity)
            np.testing.assert_array_equal(latents, expected[f"factor{mode}_latents"][identity])
            np.testing.assert_array_equal(noise, expected[f"factor{mode}_noise"][identity])


def test_any_order_gives_the_same(golden):
    with np.load(golden / "usynth_stream.npz") as expected:
        latents, noise = expected["factor0_latents"], expected["factor0_noise"]
    stream = USynthFaceStream(images=3)
    stream.draw(42, 7)
    stream.draw(5, 1)
    codes = stream.codes(42, np.array([1, 0, 1]))
    np.testing.assert_array_equal(codes, latents[[1, 0, 1], 0, :128].astype(np.float32))
    factors = stream.factors(42, np.array([1, 0]), np.array([2, 0]))
    np.testing.assert_array_equal(factors[0], np.concatenate([latents[1, 2, 128:], noise[1, 2]]).astype(np.float32))
    np.testing.assert_array_equal(factors[1], np.concatenate([latents[0, 0, 128:], noise[0, 0]]).astype(np.float32))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="factor_mode is 4"):
        USynthFaceStream(factor_mode=4)
    with pytest.raises(ValueError, match="images per identity in the stream: 0"):
        USynthFaceStream(images=0)
    with pytest.raises(ValueError, match="image 3: stream_images is 3"):
        USynthFaceStream(images=3).factors(42, np.array([0]), np.array([3]))
    with pytest.raises(ValueError, match="identity 1099511627776: the usynthface stream has 0 to 999999"):
        USynthFaceStream().codes(42, np.array([2**40]))
    with pytest.raises(ValueError, match="seed is -1"):
        USynthFaceStream().codes(-1, np.array([0]))
