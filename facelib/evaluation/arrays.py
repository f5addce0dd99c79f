"""Checks shared by the evaluation modules: what comes in becomes finite NumPy arrays of matching length.

Shape legend: P pairs, D embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.utils.arrays import l2_normalize

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


def as_numpy(values: Any) -> NDArray[Any]:
    """NumPy view of an array, list or tensor (a tensor on a GPU is copied to the host)."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy knows no bfloat16.
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    return np.asarray(values)


def as_float(values: Any, name: str) -> FloatArray:
    """Floating array of `values`: float64 stays, anything else becomes float32 (integers become float64).

    Raises:
        ValueError: not numbers.
    """
    array = as_numpy(values)
    if array.dtype == np.float64 or array.dtype == np.float32:
        return array
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind in "biu":
        return array.astype(np.float64)
    raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}")


def as_labels(labels: Any, name: str = "labels") -> BoolArray:
    """Boolean array [P] of pair labels given as bool or as 0 and 1.

    Raises:
        ValueError: not one-dimensional, or a value other than 0 and 1 (the first one is named).
    """
    array = as_numpy(labels)
    if array.ndim != 1:
        raise ValueError(f"{name} must have shape [P], got {list(array.shape)}")
    if array.dtype == np.bool_:
        return array
    same = array == 1
    wrong = ~(same | (array == 0))
    if wrong.any():
        where = int(np.argmax(wrong))
        raise ValueError(f"{name}[{where}] is {array[where]!r}; pair labels are 1 (genuine) or 0 (impostor)")
    return np.asarray(same)


def as_identities(identities: Any, pairs: int) -> NDArray[Any]:
    """Identities of both sides of each pair, integers [P, 2].

    Raises:
        ValueError: another shape or type.
    """
    array = as_numpy(identities)
    if array.shape != (pairs, 2) or array.dtype.kind not in "iu":
        raise ValueError(
            f"identities must be whole numbers [P, 2] for {pairs} pairs, got {array.dtype} {list(array.shape)}"
        )
    return array


def check_finite(values: FloatArray, name: str) -> None:
    """Raise ValueError naming the first row of `values` that holds a NaN or an infinity."""
    finite = np.isfinite(values)
    if not finite.all():
        where = int(np.argwhere(~finite)[0][0])
        raise ValueError(f"{name}[{where}] holds a value that is not finite; the model that produced it is broken")


def pair_embeddings(first: Any, second: Any, issame: Any) -> tuple[NDArray[np.float64], NDArray[np.float64], BoolArray]:
    """L2-normalized float64 embeddings [P, D] of both sides of the pairs, and their labels [P].

    A zero embedding stays zero, as in the published evaluation code.

    Raises:
        ValueError: shapes that do not match, values that are not finite, labels other than 0 and 1.
    """
    same = as_labels(issame, "issame")
    sides = []
    for name, side in (("first", first), ("second", second)):
        array = as_float(side, name)
        if array.ndim != 2:
            raise ValueError(f"{name} must have shape [P, D], got {list(array.shape)}")
        if len(array) != len(same):
            raise ValueError(f"{name} has {len(array)} embeddings for {len(same)} pairs in issame")
        check_finite(array, name)
        sides.append(l2_normalize(array.astype(np.float64)))
    if sides[0].shape != sides[1].shape:
        raise ValueError(f"first has {sides[0].shape[1]} features, second has {sides[1].shape[1]}")
    return sides[0], sides[1], same
