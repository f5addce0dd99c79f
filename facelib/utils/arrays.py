"""Array operations that several packages share."""

from typing import TypeVar, cast

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)


def l2_normalize(vectors: NDArray[Float]) -> NDArray[Float]:
    """Rows [N, D] divided by their L2 norm, of the same type, whatever their length; a zero row stays zero.

    For tensors, use `facelib.utils.unit_vectors`, which follows the same rule.
    """
    # Unlike numpy.linalg.norm, einsum makes no squared copy of the array.
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        unit = vectors / np.where(norms > 0, norms, 1)[:, None]
    # Squares of some rows vanish or overflow: these are scaled first, by a power of two, which changes no digit.
    numbers = np.finfo(vectors.dtype)
    extreme = np.flatnonzero(~((norms > np.sqrt(numbers.tiny / numbers.eps)) & (norms < np.inf)))
    if len(extreme):
        rows = vectors[extreme]
        largest = np.abs(rows).max(axis=1, initial=0)
        extreme, rows, largest = (part[np.isfinite(largest) & (largest > 0)] for part in (extreme, rows, largest))
        rows = np.ldexp(rows, (1 - np.frexp(largest)[1])[:, None])
        unit[extreme] = rows / np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return cast(NDArray[Float], unit)
