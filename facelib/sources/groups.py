"""Groups of things that pairs join: who is one person when only pairs say so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def joined_groups(count: int, pairs: ArrayLike) -> NDArray[np.int64]:
    """Number the groups that pairs [P, 2] of 0 … `count − 1` join, in the order of their first members.

    Returns:
        the group of each member, int64 [count].
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    joined = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph: Any = coo_array((np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse].astype(np.int64)
