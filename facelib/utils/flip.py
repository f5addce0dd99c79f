"""Flip augmentation at evaluation: how the embeddings of a face and of its horizontal flip become one.

| rule | embedding of x | as in |
|---|---|---|
| `sum` | f(x) + f(flipped x), D values | insightface, USynthFace |
| `concat` | [f(x), f(flipped x)], 2D values, not normalized one by one | UNPG |
| `none` | f(x) | |

Similarity is the cosine of the result. N faces, D embedding size.
"""

from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

FlipRule = Literal["sum", "concat", "none"]


def flip_rule(value: Any) -> FlipRule:
    """A rule by its name; true is `sum` and false `none`.

    Raises:
        ValueError: another value.
    """
    if isinstance(value, bool):
        return "sum" if value else "none"
    if value not in get_args(FlipRule):
        raise ValueError(f"flip={value}: choose one of {', '.join(get_args(FlipRule))}")
    return cast(FlipRule, value)


def flip_key(rule: FlipRule) -> bool | str:
    """A rule in hashes and manifests: those of former versions, which knew true and false only, remain valid."""
    return rule if rule == "concat" else rule == "sum"


def join_flipped(plain: NDArray[np.float32], flipped: NDArray[np.float32], rule: FlipRule) -> NDArray[np.float32]:
    """Embeddings [N, D] of faces and of their flips as one array by `sum` [N, D] or `concat` [N, 2D]."""
    return np.concatenate([plain, flipped], axis=1) if rule == "concat" else plain + flipped
