"""Parts of a dataset: how they are cut, and how their pieces are collected."""

import pickle

import numpy as np
import pytest

from facelib.data import DatasetError, Face, Folder, faces_to_table
from ray_jobs.datasets.generation import AlignedChunk, Chunk
from ray_jobs.datasets.writing import PartWriter, collect_parts, finished_parts, part_chunks, part_name


def test_a_part_is_cut_into_tasks():
    spec = {"first_identity": 100, "identities": 11, "identities_per_part": 4}
    assert part_chunks(0, spec, 3) == [Chunk(0, 100, 3), Chunk(0, 103, 1)]
    assert part_chunks(2, spec, 3) == [Chunk(2, 108, 3)]
    assert part_name(12) == "part-0000012.parquet"


def aligned(part, first, count, rejected):
    faces = [Face(b"jpeg", first + i, 0, 0.9, np.zeros((5, 2), np.float32), np.zeros(3, np.float32), "x")
             for i in range(count - sum(rejected.values()))]  # fmt: skip
    return AlignedChunk(Chunk(part, first, count), faces_to_table(faces), rejected)


def test_a_part_is_written_from_its_chunks_in_any_process(tmp_path):
    writer = pickle.loads(pickle.dumps(PartWriter(str(tmp_path), "fingerprint", 1)))
    info = writer([aligned(3, 4, 2, {}), aligned(3, 6, 3, {"no_face": 1})])
    assert (info.name, info.requested, info.rows, info.rejected) == ("part-0000003.parquet", 5, 4, {"no_face": 1})
    assert finished_parts(Folder(str(tmp_path)), "fingerprint") == {3: info}
    before = (tmp_path / info.name).read_bytes()
    assert writer([aligned(3, 4, 2, {}), aligned(3, 6, 3, {"no_face": 1})]) == info
    assert (tmp_path / info.name).read_bytes() == before


def test_parts_come_complete_in_order_and_without_duplicates():
    pieces = [(0, 5, "b"), (1, 0, "x"), (0, 0, "a"), (0, 5, "b again"), (1, 0, "x again"), (2, 1, "q"), (2, 0, "p")]
    assert list(collect_parts(pieces, {0: 2, 1: 1, 2: 2})) == [(1, ["x"]), (0, ["a", "b"]), (2, ["p", "q"])]


def test_a_stream_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match=r"parts \[1\] incomplete"):
        list(collect_parts([(0, 0, "a")], {0: 1, 1: 1}))


def test_a_damaged_part_is_refused(tmp_path):
    (tmp_path / "part-0000003.parquet").write_bytes(b"damaged")
    with pytest.raises(DatasetError, match=r"part-0000003\.parquet"):
        finished_parts(Folder(str(tmp_path)), "x")
