import numpy as np

from facelib.inspection.repeats import count_repeats
from facelib.sources.duplicates import bits_apart


def test_smallest_example():
    hashes = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
    hashes[1] = hashes[0]  # of one identity
    hashes[3] = hashes[2] ^ np.eye(1, 32, dtype=np.uint8)[0]  # of two identities, one bit apart
    repeats = count_repeats(hashes, np.array([0, 0, 1, 2, 2]))
    assert (repeats.within, repeats.across) == (2, 2)
    assert repeats.pairs == [(2, 3, 1)]


def test_repeats_against_a_loop():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (400, 32), dtype=np.uint8)
    hashes[7] = hashes[300] ^ np.uint8(0b10)
    hashes[8] = hashes[9]
    numbers = np.arange(400) // 2
    numbers[8:10] = 4
    bits = int(bits_apart(hashes[7], hashes[300:301])[0])
    assert bits == 32
    found = count_repeats(hashes, numbers, most_bits=32)
    assert (found.within, found.across, found.pairs) == (2, 2, [(7, 300, bits)])
    assert count_repeats(hashes, numbers, most_bits=31).across == 0
    assert count_repeats(hashes[:0], numbers[:0]).pairs == []
