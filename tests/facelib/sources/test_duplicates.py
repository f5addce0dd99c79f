import cv2
import numpy as np
import pytest
from support.datasets import pattern

from facelib.faces import decode_image, encode_image
from facelib.sources.duplicates import (
    bits_apart,
    exact_fingerprint,
    perceptual_hash,
    repeated_embeddings,
    repeated_hashes,
)


def distance(one, other):
    return bin(perceptual_hash(one) ^ perceptual_hash(other)).count("1")


def test_smallest_example():
    hashes = np.array([perceptual_hash(pattern(0, 0)), perceptual_hash(pattern(1, 0)), perceptual_hash(pattern(0, 0))])
    assert repeated_hashes(hashes.astype(np.uint64), most_bits=4).tolist() == [-1, -1, 0]


@pytest.mark.parametrize("identity", range(5))
def test_copies_are_near_and_others_far(identity):
    picture = pattern(identity, 0)
    copies = [
        decode_image(encode_image(picture, 30)),
        cv2.resize(cv2.resize(picture, (90, 90)), (112, 112)),
        cv2.convertScaleAbs(picture, alpha=0.8, beta=10),
    ]
    assert max(distance(picture, copy) for copy in copies) <= 4
    assert distance(picture, pattern(identity + 1, 0)) > 12


def test_against_the_slow_way():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, 40).astype(np.uint64)
    hashes[20:] = hashes[:20] ^ (np.uint64(1) << rng.integers(0, 64, 20).astype(np.uint64))  # one bit each
    assert bits_apart(hashes[0], hashes).tolist() == [bin(int(hashes[0]) ^ int(h)).count("1") for h in hashes]
    kept, expected = [], []
    for i, value in enumerate(hashes.tolist()):
        match = next((k for k in kept if bin(value ^ int(hashes[k])).count("1") <= 1), -1)
        expected.append(match)
        kept += [i] if match < 0 else []
    assert repeated_hashes(hashes, 1).tolist() == expected
    assert expected[20:] == list(range(20))


def test_a_chain_does_not_pull_in_everything():
    """What repeats a repetition, but not a kept picture, is kept."""
    chain = np.array([0b0000, 0b0011, 0b1111], np.uint64)
    assert repeated_hashes(chain, 2).tolist() == [-1, 0, -1]


def test_embeddings():
    angles = np.radians([0, 5, 40, 44, 90])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert repeated_embeddings(embeddings, np.cos(np.radians(10))).tolist() == [-1, 0, -1, 2, -1]
    assert repeated_embeddings(embeddings[:0], 0.9).tolist() == []


def test_exact():
    assert exact_fingerprint(b"a") == exact_fingerprint(b"a") != exact_fingerprint(b"b")
    assert 0 <= exact_fingerprint(b"a") < 2**64
