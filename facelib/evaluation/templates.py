"""Template features and template pair scores of IJB-B and IJB-C (Maze et al. 2018, 1:1 mixed-media verification).

A template is a set of media (still pictures and videos) of one person. Its feature is the sum over its media of the
mean feature of that medium's images, L2-normalized; a pair's score is the dot product. Pooling is one sparse matrix
[templates, images] times the features; scoring multiplies blocks of templates.

Shape legend: M images, D embedding size, T templates, P template pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import FloatArray, as_float, as_numpy
from facelib.utils.arrays import l2_normalize

# A matrix product does one pair's worth of work this many times faster than fetching the two rows of a single pair.
DENSE_ADVANTAGE = 40
BLOCK_BYTES = 32 * 2**20


def template_features(
    features: Any, templates: Any, medias: Any, weights: Any = None
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Pool image features into template features.

    Args:
        features: image embeddings [M, D] (flip already added); float64 stays float64, others become float32.
        templates: template number of each image, integers [M].
        medias: media number of each image, integers [M]. Images of one medium within one template are averaged.
        weights: optional factor for each image's feature, [M], e.g. the detector's score (published as "F1" or
            "detector score" pooling); the mean still divides by the number of images.

    Returns:
        L2-normalized features [T, D] and template numbers int64 [T], ascending.

    Raises:
        ValueError: shapes that do not match, features that are not finite, a template whose features add up to zero.
    """
    from scipy.sparse import csr_array

    features = as_float(features, "features")
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"features must have shape [M, D] with M at least 1, got {list(features.shape)}")
    templates = _integers(templates, "templates", len(features))
    medias = _integers(medias, "medias", len(features))
    order, starts = _groups(templates, medias)
    sizes = np.diff(np.append(starts, len(order)))
    factors = np.repeat(1 / sizes, sizes)
    if weights is not None:
        weights = as_float(weights, "weights")
        if weights.shape != templates.shape:
            raise ValueError(f"weights has shape {list(weights.shape)}, features holds {len(features)} images")
        factors = factors * weights[order]
    ordered = templates[order]
    first_images = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1))
    pooling = csr_array(
        (factors.astype(features.dtype), order, np.append(first_images, len(order))),
        shape=(len(first_images), len(features)),
    )
    pooled = pooling @ features
    ids = ordered[first_images]
    return _normalized_templates(pooled, ids), ids


def score_templates(features: Any, ids: Any, first: Any, second: Any) -> FloatArray:
    """Dot products of template pairs.

    Args:
        features: template features [T, D] as returned by `template_features`.
        ids: their template numbers, integers [T].
        first, second: template numbers of each pair, integers [P].

    Returns:
        Scores [P] in the precision of `features`.

    Raises:
        ValueError: shapes that do not match, a template number that is given twice or has no feature.
    """
    features = as_float(features, "features")
    if features.ndim != 2:
        raise ValueError(f"features must have shape [T, D], got {list(features.shape)}")
    ids = _integers(ids, "ids", len(features))
    first = as_numpy(first)
    rows_first = _rows(ids, _integers(first, "first", len(first)), "first")
    rows_second = _rows(ids, _integers(second, "second", len(first)), "second")
    if len(rows_first) == 0:
        return np.empty(0, dtype=features.dtype)
    left, used_left = _used_rows(rows_first, len(features))
    right, used_right = _used_rows(rows_second, len(features))
    if len(used_left) * len(used_right) <= DENSE_ADVANTAGE * len(rows_first):
        return _score_blocks(features[used_left], features[used_right], left, right)
    return _score_rows(features, rows_first, rows_second)


def _integers(values: Any, name: str, length: int) -> NDArray[np.int64]:
    array = as_numpy(values)
    if array.dtype.kind not in "iu" or array.shape != (length,):
        raise ValueError(f"{name} must be {length} integers, got dtype {array.dtype} of shape {list(array.shape)}")
    return array


def _groups(templates: NDArray[np.int64], medias: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Order of the images by (template, medium), images of a medium as given, and where each medium starts in it."""
    order = np.lexsort((medias, templates))
    template, media = templates[order], medias[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (np.diff(template) != 0) | (np.diff(media) != 0)
    return order, np.flatnonzero(new)


def _normalized_templates(pooled: FloatArray, ids: NDArray[np.int64]) -> FloatArray:
    unit: FloatArray = l2_normalize(pooled)
    lengths = np.einsum("td,td->t", unit, unit)
    broken = ~np.isfinite(lengths) | (lengths == 0)
    if broken.any():
        where = int(np.argmax(broken))
        found = "zero" if lengths[where] == 0 else "not finite"
        raise ValueError(
            f"template {ids[where]} has a pooled feature that is {found}: its images' features (or weights) are zero "
            "or not finite"
        )
    return unit


def _rows(ids: NDArray[np.int64], wanted: NDArray[np.int64], name: str) -> NDArray[np.int32]:
    """Row in `ids` of each wanted template number, int32 [P]."""
    order = np.argsort(ids, kind="stable")
    ascending = ids[order]
    twice = np.flatnonzero(np.diff(ascending) == 0)
    if len(twice):
        raise ValueError(f"ids holds template {ascending[twice[0]]} more than once")
    if len(wanted) == 0:
        return np.empty(0, dtype=np.int32)
    low, high = int(wanted.min()), int(wanted.max())
    if len(ids) == 0 or low < ascending[0] or high > ascending[-1]:
        raise ValueError(f"{name} asks for templates {low} to {high}, but features are known for {_extent(ascending)}")
    span = int(ascending[-1]) - int(ascending[0]) + 1
    if span <= 4 * len(wanted) + 1_000_000:
        table = np.full(span, -1, dtype=np.int32)
        table[ascending - ascending[0]] = order
        rows = table[wanted - ascending[0]]
    else:
        place = np.searchsorted(ascending, wanted)
        rows = np.where(ascending[place] == wanted, order[place], -1).astype(np.int32)
    missing = rows < 0
    if missing.any():
        where = int(np.argmax(missing))
        raise ValueError(f"{name}[{where}] is template {wanted[where]}, which has no feature in ids")
    return rows


def _extent(ascending: NDArray[np.int64]) -> str:
    return f"{ascending[0]} to {ascending[-1]}" if len(ascending) else "none"


def _used_rows(rows: NDArray[np.int32], total: int) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Rows renumbered to the ones that occur, [P], and the rows that occur."""
    used = np.zeros(total, dtype=bool)
    used[rows] = True
    number = np.cumsum(used, dtype=np.int32) - 1
    return number[rows].astype(np.int32, copy=False), np.flatnonzero(used)


def _score_blocks(
    left: FloatArray, right: FloatArray, rows_left: NDArray[np.int32], rows_right: NDArray[np.int32]
) -> FloatArray:
    """Scores by matrix products: a block of left templates against all right ones, from which the pairs are picked."""
    block = max(1, min(len(left), BLOCK_BYTES // (len(right) * left.itemsize)))
    block = max(block, -(-len(left) // 65_535))
    # 16-bit block numbers are sorted by radix sort, in linear time.
    block_of_pair = (rows_left // block).astype(np.uint16)
    order = np.argsort(block_of_pair, kind="stable")
    ends = np.cumsum(np.bincount(block_of_pair, minlength=-(-len(left) // block)))
    scores = np.empty(len(rows_left), dtype=left.dtype)
    begin = 0
    for number, end in enumerate(ends):
        pairs = order[begin:end]
        products = left[number * block : (number + 1) * block] @ right.T
        scores[pairs] = products[rows_left[pairs] - number * block, rows_right[pairs]]
        begin = end
    return scores


def _score_rows(features: FloatArray, rows_first: NDArray[np.int32], rows_second: NDArray[np.int32]) -> FloatArray:
    """Scores by fetching both rows of each pair: for pairs scattered thinly over many templates."""
    chunk = max(1, BLOCK_BYTES // 16 // (features.shape[1] * features.itemsize))
    scores = np.empty(len(rows_first), dtype=features.dtype)
    for start in range(0, len(scores), chunk):
        part = slice(start, start + chunk)
        np.einsum("pd,pd->p", features[rows_first[part]], features[rows_second[part]], out=scores[part])
    return scores
