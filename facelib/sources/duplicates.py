"""Repeated pictures: exact fingerprints, perceptual hashes, and what counts as the same picture.

The perceptual hash is the sign of the 64 lowest frequencies of a discrete cosine transform of the grey picture at 32x32
against their median, without the mean (pHash). Re-encoded, resized and slightly relit copies differ in a few of its 64
bits, other photographs in twenty or more.

N pictures, D embedding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

_BITS_OF_BYTE = np.array([bin(value).count("1") for value in range(256)], np.uint8)


def exact_fingerprint(data: bytes) -> int:
    """64 bits of the SHA-256 of an encoded picture."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def perceptual_hash(image: NDArray[np.uint8]) -> int:
    """64-bit hash of an RGB picture uint8 [H, W, 3]: near pictures have near hashes."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    low = cv2.dct(small)[:8, :8].ravel()
    bits = low > np.median(low[1:])
    # The first term is the mean: brightness says nothing about which picture it is.
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def bits_apart(one: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Hamming distance of a hash to others, int64 [N]."""
    differing = np.ascontiguousarray(np.bitwise_xor(one, others)).view(np.uint8).reshape(-1, 8)
    return _BITS_OF_BYTE[differing].sum(axis=1, dtype=np.int64)


def repeated_hashes(hashes: NDArray[np.uint64], most_bits: int) -> NDArray[np.int64]:
    """Which earlier kept picture each picture repeats, -1 for those that are kept, int64 [N].

    Args:
        hashes: of the pictures of one person, uint64 [N].
        most_bits: hashes this far apart or less are the same picture (0: equal).
    """
    return _first_match(len(hashes), lambda i, kept: bits_apart(hashes[i], hashes[kept]) <= most_bits)


def repeated_embeddings(embeddings: NDArray[np.float32], least_similarity: float) -> NDArray[np.int64]:
    """The same by cosine similarity of embeddings, normalised float32 [N, D]."""
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
