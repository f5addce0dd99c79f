"""Counts of embedded parts."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from facelib.data import DatasetError, Folder
from ray_jobs.embedding.stream import embedding_table
from ray_jobs.embedding.writing import embedding_manifest


def test_the_manifest_counts_all_parts(tmp_path):
    for part, reasons in enumerate((["", "no_face: 0 found"], ["low_score", ""])):
        columns = {"name": ["a", "b"], "identity": [0, 1], "index": [0, 0], "score": [0.9, 0.9], "rejected": reasons}
        pq.write_table(embedding_table(columns, np.ones((1, 4), np.float32)), tmp_path / f"part-000000{part}.parquet")
    manifest = embedding_manifest(Folder(str(tmp_path)), {"model": "x"})
    assert (manifest["images"], manifest["embedded"], manifest["dimensions"]) == (4, 2, 4)
    assert manifest["rejected"] == {"low_score": 1, "no_face": 1}
    assert (len(manifest["parts"]), manifest["spec"]) == (2, {"model": "x"})


def test_an_input_without_images_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="the input contains no images"):
        embedding_manifest(Folder(str(tmp_path)), {})
