"""One aligned face, and the Arrow schema of a table of them."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

SCHEMA = pa.schema(
    [
        pa.field("image", pa.binary(), nullable=False),
        pa.field("identity", pa.int64(), nullable=False),
        pa.field("index", pa.int32(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("landmarks", pa.list_(pa.list_(pa.float32(), 2), 5), nullable=False),
        pa.field("factors", pa.list_(pa.float32()), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Face:
    """One aligned face. `image` is encoded; `landmarks` [5, 2] are in pixels of the image it was cut from."""

    image: bytes
    identity: int
    index: int
    score: float
    landmarks: np.ndarray
    factors: np.ndarray
    source: str


def faces_to_table(faces: Iterable[Face]) -> pa.Table:
    """Arrow table of `SCHEMA`, in the order given."""
    faces = list(faces)
    columns = {f.name: [getattr(face, f.name) for face in faces] for f in SCHEMA}
    for name in ("landmarks", "factors"):
        columns[name] = [np.asarray(value).tolist() for value in columns[name]]
    arrays = [pa.array(columns[f.name], f.type) for f in SCHEMA]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)
