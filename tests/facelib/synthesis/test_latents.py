import numpy as np
import pytest

from facelib.synthesis.latents import FACTOR_SIZE, factor_slices, identity_latents, image_latents


def test_latents_depend_on_seed_identity_and_image_only() -> None:
    identities, indices = np.array([5, 9, 5, 2**40, 0]), np.array([0, 3, 1, 7, 0])
    batch = image_latents(1, identities, indices)
    for row in range(len(identities)):
        np.testing.assert_array_equal(
            batch[row : row + 1], image_latents(1, identities[row : row + 1], indices[row : row + 1])
        )
    order = np.array([4, 2, 0, 1, 3])
    np.testing.assert_array_equal(batch[order], image_latents(1, identities[order], indices[order]))
    np.testing.assert_array_equal(identity_latents(1, identities)[0], identity_latents(1, identities)[2])


def test_latents_differ_between_seeds_identities_images_and_streams() -> None:
    a = image_latents(1, np.array([5, 5, 6]), np.array([0, 1, 0]))
    b = image_latents(2, np.array([5]), np.array([0]))
    rows = np.concatenate([a, b])
    assert np.abs(np.corrcoef(rows) - np.eye(4)).max() < 0.5
    assert not np.array_equal(identity_latents(1, np.array([5]))[0, :FACTOR_SIZE], a[0])


def test_latents_are_standard_normal() -> None:
    x = identity_latents(7, np.arange(4000))
    assert x.dtype == np.float32
    assert abs(float(x.mean())) < 0.006
    assert abs(float(x.std()) - 1) < 0.006
    assert np.abs(x.mean(0)).max() < 0.08
    assert abs(float((np.abs(x) > 1.96).mean()) - 0.05) < 0.002
    correlation = np.corrcoef(x.T) - np.eye(x.shape[1])
    assert np.abs(correlation).max() < 0.09
    y = image_latents(7, np.repeat(np.arange(500), 8), np.tile(np.arange(8), 500))
    assert abs(float(y.mean())) < 0.006
    assert abs(float(y.std()) - 1) < 0.006


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="identities must be a 1-D array of integers"):
        identity_latents(0, np.array([0.5]))
    with pytest.raises(ValueError, match="identities has 2 entries, indices has 1"):
        image_latents(0, np.array([0, 1]), np.array([0]))


def test_factor_slices_follow_the_order() -> None:
    assert factor_slices({"a": 2, "b": 3}) == {"a": slice(0, 2), "b": slice(2, 5)}
