import numpy as np

from facelib.data import SCHEMA, Face, faces_to_table


def test_smallest_example():
    landmarks = np.arange(10, dtype=np.float32).reshape(5, 2)
    face = Face(b"jpeg", 7, 0, 0.5, landmarks, np.array([1.5], np.float32), "morphable")
    table = faces_to_table([face])
    assert table.schema == SCHEMA
    row = table.to_pylist()[0]
    assert (row["image"], row["identity"], row["score"], row["factors"]) == (b"jpeg", 7, 0.5, [1.5])
    assert row["landmarks"] == landmarks.tolist()


def test_a_table_without_faces():
    assert faces_to_table([]).schema == SCHEMA
