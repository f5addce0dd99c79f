"""Pairs in groups, as in RFW."""

import numpy as np
import pytest
from support.datasets import write_dataset

from facelib.data import DatasetError
from facelib.evaluation import EvaluationOptions
from facelib.evaluation.protocols import open_set

FEW = EvaluationOptions(fars=(0.1,), bootstrap=20)


def pixels(faces):
    """Embeddings that know whom a pattern shows: small gray pictures."""
    images = faces.decode().astype(np.float32).mean(axis=3)[:, ::8, ::8].reshape(len(faces), -1)
    return images - images.mean(axis=1, keepdims=True)


def test_groups_of_people(tmp_path, people_bin):
    folder = tmp_path / "rfw"
    folder.mkdir()
    for name in ("south", "north"):
        (folder / f"{name}.bin").write_bytes(people_bin.read_bytes())
    write_dataset(folder / "synthetic", identities=6, images=4, first=300)
    opened = open_set(f"groups(pairs=20):{folder}")
    assert list(opened.groups) == ["north", "south", "synthetic"]
    embeddings = pixels(opened.faces)
    measured = opened.measure(embeddings, FEW)
    alone = open_set(str(people_bin))
    expected = alone.measure(pixels(alone.faces), FEW).report
    for name in ("north", "south"):
        assert measured.report.groups[name].auc == expected.auc
        assert measured.report.groups[name].fold_accuracies == expected.fold_accuracies
    assert measured.report.accuracy_std > 0
    assert set(measured.curves) == set(opened.groups)
    # A pair of the second group is shown by that group's own faces.
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for pair in (0, 29, 30, 59, 60, len(measured.issame) - 1):
        first, second = opened.pair_images(pair)
        assert unit[first] @ unit[second] == pytest.approx(measured.similarities[pair], abs=1e-5)
    people = opened.identities
    assert people.max() + 1 == len(set(people[people >= 0].tolist())) or len(set(people.tolist())) > 20
    (folder / "south.bin").unlink()
    (folder / "north.bin").unlink()
    with pytest.raises(ValueError, match="holds synthetic; groups need two or more"):
        open_set(f"groups:{folder}")


def test_hidden_files_are_no_groups_and_suffixes_count_in_any_case(tmp_path, people_bin):
    folder = tmp_path / "rfw"
    folder.mkdir()
    for name in ("south.BIN", "north.bin"):
        (folder / name).write_bytes(people_bin.read_bytes())
    (folder / "._north.bin").write_bytes(b"\x00\x05\x16\x07")
    assert list(open_set(f"groups:{folder}").groups) == ["north", "south"]
    write_dataset(folder / "south", identities=6, images=4)
    with pytest.raises(ValueError, match="are both group south"):
        open_set(f"groups:{folder}")


def test_groups_of_other_templates_do_not_mix(tmp_path):
    for name, template in (("a", "arcface"), ("b", "arcface-96")):
        write_dataset(tmp_path / name, identities=4, images=4, template=template)
    with pytest.raises(DatasetError, match="group a and group b do not fit together"):
        open_set(f"groups:{tmp_path}")
