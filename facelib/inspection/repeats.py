"""Pictures that are nearly the same: a hash of the picture's coarse gradients, and who shares one.

N pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
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


def difference_hash(image: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """256 bits uint64 [4] of an RGB picture [H, W, 3]: whether each cell of a 16 x 17 grid is brighter than the next.

    Aligned faces all look alike at a coarse scale, so a hash of 64 bits calls strangers copies; this one is finer.
    """
    grey = cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)


def count_repeats(hashes: NDArray[np.uint64], identities: NDArray[np.int64], most_bits: int = 16) -> Repeats:
    """Pictures whose hashes [N, 4] are at most `most_bits` (of 256) apart, by whether they show one identity [N].

    Every pair is compared: N²/2 comparisons, 20,000 pictures in some seconds.
    """
    count = len(hashes)
    within, across = np.zeros(count, bool), np.zeros(count, bool)
    pairs: list[tuple[int, int, int]] = []
    for start in range(0, count, _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, count)
        apart = np.zeros((stop - start, count - start), np.uint16)
        for word in range(hashes.shape[1]):
            apart += np.bitwise_count(hashes[start:stop, None, word] ^ hashes[None, start:, word])
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
