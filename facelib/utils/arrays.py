"""Array operations that several packages share."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", np.float32, np.float64)


def l2_normalize(vectors: NDArray[Float], eps: float = 1e-12) -> NDArray[Float]:
    """Rows [N, D] divided by their L2 norm, of the same type; rows shorter than `eps` are divided by `eps`.

    For tensors, use `torch.nn.functional.normalize`, which follows the same rule.
    """
    # Unlike numpy.linalg.norm, einsum makes no squared copy of the array.
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    return vectors / np.maximum(norms, eps, dtype=vectors.dtype)[:, None]
