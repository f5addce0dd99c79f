import numpy as np
import pytest

from facelib.sources import KFace, read_kface_pairs
from facelib.sources.kface import parse_variance


@pytest.fixture
def folder(tmp_path):
    for identity in ("19100002", "19100001", "19100003"):
        for accessory in (1, 2):
            for lux in (1, 7):
                place = tmp_path / identity / f"S{accessory:03d}" / f"L{lux}" / "E01"
                place.mkdir(parents=True)
                for pose in (2, 10):
                    (place / f"C{pose}.jpg").write_bytes(b"")
    return tmp_path


def test_smallest_example(folder):
    kface = KFace(folder, accessories="s1", luxes="l1", exclude=["19100002"])
    assert kface.paths == [
        "19100001/S001/L1/E01/C2.jpg",
        "19100001/S001/L1/E01/C10.jpg",
        "19100003/S001/L1/E01/C2.jpg",
        "19100003/S001/L1/E01/C10.jpg",
    ]
    assert kface.names == ["19100001", "19100003"]
    assert kface.classes.tolist() == [0, 0, 1, 1]
    assert kface[3] == (folder / "19100003/S001/L1/E01/C10.jpg", 1)


def test_everything_and_variances(folder):
    assert len(KFace(folder)) == 3 * 2 * 2 * 2
    assert len(KFace(folder, luxes="l1~6,8~30", poses="c10")) == 3 * 2
    kface = KFace(folder, accessories="s2", luxes="l7")
    assert kface.paths[1] == "19100001/S002/L7/E01/C10.jpg"
    assert kface.landmark_picture(1) == folder / "19100001/S001/L1/E01/C10.jpg"


def test_parse_variance():
    assert parse_variance("l1~6,8~30", "l") == [n for n in range(1, 31) if n != 7]
    assert parse_variance("S2,1", "s") == [1, 2]


@pytest.mark.parametrize("text", ["", "l", "c1~3", "l0", "l31", "l3~1", "l1-3", "l1,,2"])
def test_variances_that_do_not_exist_are_refused(text):
    with pytest.raises(ValueError, match="luxes is"):
        parse_variance(text, "l")


def test_pair_list(tmp_path):
    (tmp_path / "q1.txt").write_text("a/S001/L1/E01/C1.jpg a/S001/L1/E01/C2.jpg 1\nx y 0\n\n")
    first, second, same = read_kface_pairs(tmp_path / "q1.txt")
    assert (first[0], second) == ("a/S001/L1/E01/C1.jpg", ["a/S001/L1/E01/C2.jpg", "y"])
    np.testing.assert_array_equal(same, [True, False])


def test_refuses(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        KFace(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no picture"):
        KFace(folder, expressions="e2")
    (tmp_path / "bad.txt").write_text("a b 1\na b 2\n")
    with pytest.raises(ValueError, match=r"bad\.txt: line 2"):
        read_kface_pairs(tmp_path / "bad.txt")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no pair"):
        read_kface_pairs(tmp_path / "empty.txt")
