"""Independent random streams: one number a purpose, so that no two consumers of one seed draw the same numbers.

Every stream is a function of (purpose, seed, position), where the position is for example a step and a rank. There is
no state to save: a resumed run draws what an uninterrupted one would have drawn. NumPy's `SeedSequence` hashes the
three, so that streams of neighboring seeds, purposes and positions are independent.

The images of a generator do not come from here: they have counters of their own (`facelib.synthesis.latents`).
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What random numbers are for. A number, once given, keeps its meaning: results depend on it."""

    INITIAL_WEIGHTS = 1  # of networks and unsharded heads
    SHARDED_WEIGHTS = 2  # position: block of classes
    MOCO_QUEUE = 3  # the first queue
    ROW_GROUP_ORDER = 4  # position: pass over the dataset
    SAMPLE_ORDER = 5  # which images form a sample and their order; position: pass, rank, ranks, first sample
    AUGMENTATION = 6  # position: step, rank, first sample of the step
    DROPOUT = 7  # position: step, rank
    KEY_SHUFFLE = 8  # shuffled BatchNorm of the key encoder; position: step
    CLASS_SAMPLING = 9  # Partial FC; position: step, rank
    EVALUATION_PAIRS = 10  # pairs drawn from a face dataset


def seed_sequence(purpose: Purpose, seed: int, *position: int) -> np.random.SeedSequence:
    """The stream of a purpose at a position.

    Args:
        seed: 0 or more, of any size.
        position: whole numbers in 0..2^64 − 1; a purpose always gives the same number of them.

    Raises:
        ValueError: a negative seed or position.
    """
    # Two words a number: SeedSequence takes as many as a number needs, and (0, 1) would be the same as 1 << 32.
    words = [word for number in position for word in (number & 0xFFFFFFFF, number >> 32)]
    return np.random.SeedSequence(seed, spawn_key=(int(purpose), *words))


def random_generator(purpose: Purpose, seed: int, *position: int) -> np.random.Generator:
    """NumPy's generator of a stream."""
    return np.random.default_rng(seed_sequence(purpose, seed, *position))


def torch_seed(purpose: Purpose, seed: int, *position: int) -> int:
    """A seed for `torch.manual_seed` and `torch.Generator`, in 0..2^63 − 1.

    torch's CPU generator uses the lower 32 bits only: a seed shifted above them would not count.
    """
    # By way of bytes: torch.compile, which traces through this, would take NumPy's arithmetic for its own.
    return int.from_bytes(seed_sequence(purpose, seed, *position).generate_state(2).tobytes(), "little") >> 1
