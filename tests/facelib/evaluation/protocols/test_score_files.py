import io

import numpy as np
import pytest

from facelib.data import Folder
from facelib.evaluation.protocols.score_files import write_scores


@pytest.mark.parametrize("kind", ["similarity", "distance"])
def test_files_hold_the_scores_of_the_pairs_in_order(tmp_path, kind):
    generator = np.random.default_rng(0)
    first, second = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in generator.normal(size=(2, 9, 4)))
    issame = np.arange(9) % 3 == 0
    write_scores(Folder(str(tmp_path)), "lfw", (first * second).sum(1).astype(np.float32), issame, kind)
    expected = ((first - second) ** 2).sum(1) if kind == "distance" else (first * second).sum(1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lfw.npy", "lfw_genuines.txt", "lfw_impostors.txt"]
    np.testing.assert_allclose(np.load(tmp_path / "lfw.npy"), expected, atol=1e-6)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "lfw_genuines.txt"), expected[issame], atol=1e-6)
    np.testing.assert_allclose(np.loadtxt(tmp_path / "lfw_impostors.txt"), expected[~issame], atol=1e-6)
    # As np.savetxt writes them, nothing is lost.
    text = io.StringIO("\n".join((tmp_path / "lfw_genuines.txt").read_text().split()))
    assert np.array_equal(np.loadtxt(text), np.load(tmp_path / "lfw.npy")[issame])


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    write_scores(folder, "lfw", np.array([0.5, 0.1]), np.array([True, False]), "similarity")
    before = (tmp_path / "lfw_genuines.txt").read_bytes()

    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(np, "savetxt", fail)
    with pytest.raises(OSError, match="disk full"):
        write_scores(folder, "lfw", np.array([0.9, 0.1]), np.array([True, False]), "similarity")
    assert (tmp_path / "lfw_genuines.txt").read_bytes() == before
