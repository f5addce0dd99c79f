import numpy as np

from facelib.inspection.repeats import count_repeats


def test_smallest_example():
    hashes = np.random.default_rng(0).integers(0, 256, (5, 32), dtype=np.uint8)
    hashes[1] = hashes[0]  # of one identity
    hashes[3] = hashes[2] ^ np.eye(1, 32, dtype=np.uint8)[0]  # of two identities, one bit apart
    repeats = count_repeats(hashes, np.array([0, 0, 1, 2, 2]))
    assert (repeats.within, repeats.across) == (2, 2)
    assert repeats.pairs == [(2, 3, 1)]
