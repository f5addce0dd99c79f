"""Embeddings of made-up identities."""

import numpy as np


def clustered_embeddings(identities=12, images=5, noise=0.3, size=16, seed=0):
    """Embeddings [N, D] scattered around a random center per identity, and the identity of each [N]."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(identities, size))
    numbers = np.repeat(np.arange(identities) * 10 + 3, images)
    return np.repeat(centers, images, axis=0) + noise * rng.normal(size=(len(numbers), size)), numbers
