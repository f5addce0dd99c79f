"""Scores of all pairs in files, for tools that draw or compare their own curves.

| file | as in | content |
|---|---|---|
| `<set>_genuines.txt`, `<set>_impostors.txt` | USynthFace | a score on each line, in the order of the pairs |
| `<set>.npy` | insightface's IJB scripts | all scores [P] in the order of the pairs, float64 |

P pairs.
"""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from facelib.data import Folder

ScoreKind = Literal["similarity", "distance"]


def write_scores(
    folder: Folder, name: str, similarities: NDArray[Any], issame: NDArray[np.bool_], kind: ScoreKind
) -> None:
    """Write the three files of a set, each whole or not at all.

    Args:
        name: of the set.
        similarities: cosines [P].
        issame: whether a pair is genuine, [P].
        kind: "similarity", or "distance": the squared L2 distance of the unit embeddings, 2 − 2·cosine (USynthFace's).
    """
    scores = np.asarray(similarities, np.float64)
    scores = 2 - 2 * scores if kind == "distance" else scores
    for ending, part in (("genuines", scores[issame]), ("impostors", scores[~issame])):
        text = io.BytesIO()
        np.savetxt(text, part)
        folder.write(f"{name}_{ending}.txt", text.getvalue())
    array = io.BytesIO()
    np.save(array, scores, allow_pickle=False)
    folder.write(f"{name}.npy", array.getvalue())
