import cv2
import numpy as np
import pytest

from facelib.data import decode_image, encode_image
from facelib.sources.duplicates import (
    bits_apart,
    exact_fingerprint,
    perceptual_hash,
    repeated_embeddings,
    repeated_hashes,
)


def photograph(seed):
    """A picture with detail at all scales, as photographs have."""
    rng = np.random.default_rng(seed)
    layers = [
        cv2.resize(rng.normal(0, 400 / n, (n, n, 3)), (112, 112), interpolation=cv2.INTER_CUBIC)
        for n in (4, 8, 16, 32, 64)
    ]
    return np.clip(sum(layers) * 0.5 + 128, 0, 255).astype(np.uint8)


def distance(one, other):
    return int(bits_apart(perceptual_hash(one), perceptual_hash(other)[None])[0])


def test_smallest_example():
    hashes = np.stack([perceptual_hash(photograph(seed)) for seed in (0, 1, 0)])
    assert hashes.shape == (3, 32)
    assert repeated_hashes(hashes, most_bits=24).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("identity", range(5))
def test_copies_are_near_and_others_far(identity):
    picture = photograph(identity)
    copies = [
        decode_image(encode_image(picture, 30)),
        cv2.resize(cv2.resize(picture, (90, 90)), (112, 112)),
        cv2.convertScaleAbs(picture, alpha=0.8, beta=10),
    ]
    assert max(distance(picture, copy) for copy in copies) <= 24
    assert distance(picture, photograph(identity + 1)) > 60


def test_against_the_slow_way():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (40, 32), np.uint8)
    hashes[20:] = hashes[:20]
    hashes[np.arange(20, 40), rng.integers(0, 32, 20)] ^= 1  # one bit each
    numbers = [int.from_bytes(row.tobytes(), "big") for row in hashes]
    assert bits_apart(hashes[0], hashes).tolist() == [bin(numbers[0] ^ n).count("1") for n in numbers]
    kept, expected = [], []
    for i, value in enumerate(numbers):
        match = next((k for k in kept if bin(value ^ numbers[k]).count("1") <= 1), -1)
        expected.append(match)
        kept += [i] if match < 0 else []
    assert repeated_hashes(hashes, 1).tolist() == expected
    assert expected[20:] == list(range(20))


def test_a_chain_does_not_pull_in_everything():
    """What repeats a repetition, but not a kept picture, is kept."""
    chain = np.array([[0b0000], [0b0011], [0b1111]], np.uint8)
    assert repeated_hashes(chain, 2).tolist() == [-1, 0, -1]


def test_embeddings():
    angles = np.radians([0, 5, 40, 44, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert repeated_embeddings(embeddings, np.cos(np.radians(10))).tolist() == [-1, 0, -1, 2, -1]
    assert repeated_embeddings(embeddings[:0], 0.9).tolist() == []


def test_exact():
    assert exact_fingerprint(b"a").tolist() == exact_fingerprint(b"a").tolist() != exact_fingerprint(b"b").tolist()
    assert exact_fingerprint(b"a").shape == (32,)
