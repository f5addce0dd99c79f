"""Pictures of a set that are nearly the same, by their perceptual hashes. N pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Repeats:
    """How many pictures have a near copy.

    Attributes:
        within: pictures with a near copy among their own identity's.
        across: pictures with a near copy among another identity's.
        pairs: the nearest such pairs across identities, (row, row, bits apart), at most a hundred.
    """

    within: int
    across: int
    pairs: list[tuple[int, int, int]]


def count_repeats(hashes: NDArray[np.uint8], identities: NDArray[np.int64], most_bits: int = 24) -> Repeats:
    """Pictures whose hashes [N, 32] (`perceptual_hash`) are at most `most_bits` apart, by whether they show one of the
    identities [N].

    Every pair is compared: N²/2 comparisons, 20,000 pictures in some seconds.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64)
    count = len(hashes)
    within, across = np.zeros(count, bool), np.zeros(count, bool)
    pairs: list[tuple[int, int, int]] = []
    for start in range(0, count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, count)
        apart = np.zeros((stop - start, count - start), np.uint16)
        for word in range(words.shape[1]):
            apart += np.bitwise_count(words[start:stop, None, word] ^ words[None, start:, word])
        rows, columns = np.nonzero(apart <= most_bits)
        later = columns > rows
        rows, columns = rows[later], columns[later]
        bits = apart[rows, columns]
        first, second = rows + start, columns + start
        same = identities[first] == identities[second]
        for found, which in ((within, same), (across, ~same)):
            found[first[which]] = True
            found[second[which]] = True
        pairs += zip(first[~same].tolist(), second[~same].tolist(), bits[~same].tolist(), strict=True)
        pairs = sorted(pairs, key=lambda pair: pair[2])[:100]
    return Repeats(int(within.sum()), int(across.sum()), pairs)
