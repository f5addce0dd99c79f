"""Actors and tables of the embedding stream."""

import json
from dataclasses import asdict

import numpy as np
from support.datasets import pattern

from facelib.config import load_settings
from facelib.data import ImageSpec, encode_image
from ray_jobs.embedding.stream import CropActor, embedding_table
from ray_jobs.embedding.tasks import EmbeddingTask


def test_rejected_images_have_no_embedding():
    columns = {"name": ["a", "b"], "identity": [None, None], "index": [None, None], "score": [0.9, None],
               "rejected": ["", "no_face"]}  # fmt: skip
    table = embedding_table(columns, np.array([[1, 2, 3]], np.float32))
    assert table["embedding"].to_pylist() == [[1, 2, 3], None]
    assert table.schema.metadata == {b"dimensions": b"3"}


def test_crops_are_read_as_they_are_and_reasons_are_given(tmp_path):
    (tmp_path / "a.jpg").write_bytes(encode_image(pattern(0, 0)))
    (tmp_path / "b.jpg").write_bytes(encode_image(pattern(0, 0, 96)))
    (tmp_path / "c.jpg").write_bytes(b"damaged")
    task = EmbeddingTask(0, 0, 4, str(tmp_path), files=["a.jpg", "b.jpg", "c.jpg", "gone.jpg"])
    actor = CropActor(load_settings(None).align, ImageSpec(template="arcface", size=112), aligned=True)
    row = actor({"task": json.dumps(asdict(task))})
    rejected = json.loads(row["columns"])["rejected"]
    assert rejected[:2] == ["", "size: 96x96 pixels instead of 112x112"]
    assert all(reason.startswith("image: ") for reason in rejected[2:])
    crop = np.frombuffer(row["crops"], np.uint8).reshape(112, 112, 3)
    assert np.abs(crop.astype(int) - pattern(0, 0)).mean() < 10
