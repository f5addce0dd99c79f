"""Pair lists of a source as .bin files of the dataset's faces."""

import numpy as np
from support.datasets import pattern, write_dataset

from facelib.data import decode_image
from facelib.sources import PairList, read_bin
from facelib.sources.pair_sets import load_pair_set
from ray_jobs.datasets.pair_files import write_pair_file


def test_pairs_with_a_face_on_both_sides_are_written(tmp_path, monkeypatch, capsys):
    dataset = write_dataset(tmp_path / "faces", identities=3, images=1)
    tables = [t.set_column(t.schema.get_field_index("source"), "source", [[f"lfw:{i}.jpg" for i in range(3)]])
              for t in dataset.tables(["image", "source", "identity"])]  # fmt: skip
    monkeypatch.setattr(type(dataset), "tables", lambda *_: iter(tables))
    pairs = PairList("mine", ["0.jpg", "1.jpg"], ["2.jpg", "gone.jpg"], np.array([False, False]))
    report = write_pair_file(dataset, pairs, "lfw")
    assert (report["pairs"], report["missing"], report["examples"]) == (1, 1, ["1.jpg gone.jpg"])
    images, issame = read_bin(report["file"])
    assert issame.tolist() == [False]
    assert np.abs(decode_image(images[1]).astype(int) - pattern(2, 0)).mean() < 10
    # Pairs know their identities when the file is opened again.
    found = load_pair_set(report["file"])
    assert found.identities.tolist() == [0, 1]
    assert "1 of 2 pairs of mine lack a face" in capsys.readouterr().out
