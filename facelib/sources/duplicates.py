"""Repeated images: exact fingerprints, perceptual hashes, and what counts as the same image.

The perceptual hash is the sign of the 16x16 lowest frequencies of a discrete cosine transform of the gray image at
64x64 against their median, without the mean (pHash; its usual 64 bits do not tell aligned faces apart). On 3,200 pairs
of aligned LFW development faces: re-encoded at quality 30, resized, blurred or relit copies differ in 14 of 256 bits
at most, copies shifted by a pixel in 38, other photographs of one person in 44 and more (half of them in 112 and
more), images of two identities in 90 and more.

N images, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

_BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def exact_fingerprint(data: bytes) -> NDArray[np.uint8]:
    """SHA-256 of an encoded image, uint8 [32]."""
    return np.frombuffer(hashlib.sha256(data).digest(), np.uint8)


def perceptual_hash(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Hash of an RGB image uint8 [H, W, 3], 256 bits as uint8 [32]: near images have near hashes."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:16, :16].ravel()
    bits = low > np.median(low[1:])
    # The first term is the mean: brightness says nothing about which image it is.
    bits[0] = False
    return np.packbits(bits)


def bits_apart(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Hamming distances of a hash [32] to others [N, 32], int64 [N]."""
    return _BITS_OF_BYTE[np.bitwise_xor(one, others)].sum(axis=1, dtype=np.int64)


def repeated_hashes(hashes: NDArray[np.uint8], most_bits: int) -> NDArray[np.int64]:
    """Which earlier kept image each image repeats, -1 for those that are kept, int64 [N].

    Args:
        hashes: of the images of one person, uint8 [N, 32].
        most_bits: hashes this far apart or less are the same image (0: equal).
    """
    return _first_match(len(hashes), lambda i, kept: bits_apart(hashes[i], hashes[kept]) <= most_bits)


def repeated_embeddings(embeddings: NDArray[np.float32], least_similarity: float) -> NDArray[np.int64]:
    """The same by cosine similarity of embeddings, normalized float32 [N, D]."""
    return _first_match(len(embeddings), lambda i, kept: embeddings[kept] @ embeddings[i] >= least_similarity)


def _first_match(count: int, same: Callable[[int, NDArray[np.int64]], NDArray[np.bool_]]) -> NDArray[np.int64]:
    kept = np.zeros(count, np.int64)
    number = 0
    repeats = np.full(count, -1, np.int64)
    for i in range(count):
        matches = np.flatnonzero(same(i, kept[:number]))
        if len(matches):
            repeats[i] = kept[matches[0]]
        else:
            kept[number] = i
            number += 1
    return repeats
