import unicodedata

import numpy as np
import pytest
from support.listing import accounted, random_tree

from facelib.sources import SourceError, build_source
from facelib.sources.lfw import read_lfw_pairs
from facelib.sources.source import count_skipped
from facelib.utils.text_files import TextFileError

PEOPLE = {"Ann_Lee": 3, "Bob": 2, "Eve_O'Hara": 1}


def make(folder, flat=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, pictures in PEOPLE.items():
        for number in range(1, pictures + 1):
            place = folder if flat else folder / name
            place.mkdir(exist_ok=True)
            (place / f"{name}_{number:04d}.jpg").write_bytes(b"x")


def view1(genuine, impostor):
    return f"{len(genuine)}\n" + "".join("\t".join(map(str, row)) + "\n" for row in [*genuine, *impostor])


@pytest.mark.parametrize(
    "layout", ["", "lfw", "lfw_funneled", "lfw-deepfunneled/lfw-deepfunneled", "lfw_home/lfw_funneled", "flat"]
)
def test_layouts(tmp_path, layout):
    make(tmp_path / layout, flat=layout == "flat")
    index = build_source("lfw", str(tmp_path)).index()
    assert index.names == ["Ann_Lee", "Bob", "Eve_O'Hara"]
    assert index.counts.tolist() == [3, 2, 1]


def test_view_1(tmp_path):
    make(tmp_path / "lfw_funneled")
    genuine = [("Ann_Lee", 1, n % 2 + 2) for n in range(20)]
    impostor = [("Ann_Lee", 1, "Bob", n % 2 + 1) for n in range(20)]
    (tmp_path / "pairsDevTest.txt").write_text(view1(genuine, impostor))
    source = build_source("lfw", str(tmp_path), view="view1-test")
    index = source.index()
    assert index.counts.tolist() == [3, 2]  # Eve stands in no pair
    pairs = source.pair_lists()[0]
    assert pairs.name == "pairsDevTest"
    assert (pairs.first[0], pairs.second[0]) == ("Ann_Lee/Ann_Lee_0001.jpg", "Ann_Lee/Ann_Lee_0002.jpg")
    assert set(pairs.first) | set(pairs.second) == set(index.places.to_pylist())
    # Every tenth holds both kinds.
    assert pairs.issame.reshape(10, 4).tolist() == [[True, True, False, False]] * 10


def test_view_2_keeps_its_folds(tmp_path):
    rows = [row for _ in range(10) for row in (("Ann_Lee", 1, 2), ("Ann_Lee", 3, "Bob", 1))]
    (tmp_path / "pairs.txt").write_text("10\t1\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
    pairs = read_lfw_pairs(tmp_path / "pairs.txt")
    np.testing.assert_array_equal(pairs.issame, [True, False] * 10)
    assert (pairs.first[1], pairs.second[1]) == ("Ann_Lee/3", "Bob/1")


def test_a_picture_that_a_pair_names_and_is_not_there(tmp_path):
    make(tmp_path)
    (tmp_path / "mine.txt").write_text(view1([("Ann_Lee", 1, 9)], [("Bob", 1, "Bob_2", 1)]))
    index = build_source("lfw", str(tmp_path), view=str(tmp_path / "mine.txt")).index()
    assert index.places.to_pylist() == ["Ann_Lee/Ann_Lee_0001.jpg", "Bob/Bob_0001.jpg"]
    assert [(s.reason, s.place) for s in index.skipped if s.damage] == [
        ("missing_file", "Ann_Lee/9"), ("missing_file", "Bob_2/1"),
    ]  # fmt: skip
    assert count_skipped(index.skipped)["not_a_picture_file"] == 1


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("ending", [".png", "_0.png", ".JPG", "_0.jpg"])
def test_what_aligners_write(tmp_path, flat, ending):
    """facenet 490 and 524: its MTCNN aligner names the first face Name_0001_0.png, a second one Name_0001_1.png."""
    folder = tmp_path / "lfw"
    for name in ("Anna_B", "Carl"):
        (folder if flat else folder / name).mkdir(parents=True, exist_ok=True)
        ((folder if flat else folder / name) / f"{name}_0001{ending}").write_bytes(b"x")
    extra = (folder if flat else folder / "Carl") / "Carl_0001_1.png"
    extra.write_bytes(b"another person")
    source = build_source("lfw", str(tmp_path))
    index = source.index()
    assert index.names == ["Anna_B", "Carl"]
    assert index.places[1].as_py().endswith(f"Carl_0001{ending}")
    assert [s.reason for s in index.skipped] == ["other_face"]
    (tmp_path / "pairs.txt").write_bytes("\ufeff1\t1\r\nAnna_B\t1\t1\r\nAnna_B\t1\tCarl\t1\r\n".encode())
    source = build_source("lfw", str(tmp_path), view="view2")
    assert source.pair_lists()[0].second[1] == index.places[1].as_py()


def test_pairs_of_paths(tmp_path):
    """lfw_test_pair.txt of several codebases (Pytorch_Face_Recognition 6): "path path label", ten folds or not."""
    make(tmp_path / "lfw")
    genuine, impostor = "Ann_Lee/Ann_Lee_0001.jpg Ann_Lee/Ann_Lee_0002.jpg 1\n", "Bob/Bob_0002.jpg Bob/Bob_0001.png 0\n"
    for text, order in ((genuine * 10 + impostor * 10, [True, False]), ((impostor + genuine) * 10, [False, True])):
        (tmp_path / "pairs.txt").write_text(text)
        source = build_source("lfw", str(tmp_path), view=str(tmp_path / "pairs.txt"))
        assert len(source.index()) == 4
        pairs = source.pair_lists()[0]
        assert pairs.issame.tolist() == order * 10
        assert pairs.second[order.index(False)] == "Bob/Bob_0001.jpg"
    (tmp_path / "pairs.txt").write_text(genuine + "Bob/Bob_0002.jpg 1\n")
    with pytest.raises(SourceError, match=r"line 2 is .*expected: Name_0001\.jpg Name_0002\.jpg 1"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_names_as_macos_writes_them(tmp_path):
    """Its archives hold accents as characters of their own, lists do not (paperbanana 240)."""
    name = unicodedata.normalize("NFD", "José_Lee")
    (tmp_path / name).mkdir()
    for number in (1, 2):
        (tmp_path / name / f"{name}_000{number}.jpg").write_bytes(b"x")
    (tmp_path / "mine.txt").write_text(view1([("José_Lee", 1, 2)], [("José_Lee", 1, "José_Lee", 2)]))
    index = build_source("lfw", str(tmp_path), view=str(tmp_path / "mine.txt")).index()
    assert index.names == ["José_Lee"]
    assert (len(index), count_skipped(index.skipped)) == (2, {"not_a_picture_file": 1})


def test_one_image_in_two_files(tmp_path):
    make(tmp_path / "lfw")
    (tmp_path / "lfw/Bob/Bob_0001.png").write_bytes(b"x")
    index = build_source("lfw", str(tmp_path)).index()
    assert index.counts.tolist() == [3, 2, 1]
    assert [(s.reason, s.place) for s in index.skipped] == [("listed_twice", "Bob/Bob_0001.png")]


@pytest.mark.parametrize("seed", range(10))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    rng = np.random.default_rng(seed)
    make(tmp_path / "in")
    files = ["Bob_0002.jpg", "Bob_0001_0.png", "Bob_0001_1.png", "Bob.jpg", "notes.txt", "._Bob_0001.jpg", "x_12.png"]
    random_tree(tmp_path / "in", rng, files, ["Ann_Lee", "Bob", ".git"])
    (tmp_path / "mine.txt").write_text(view1([("Ann_Lee", 1, 2)], [("Bob", 1, "Gone", 1)]))
    for view in ("", str(tmp_path / "mine.txt")):
        index = build_source("lfw", str(tmp_path / "in"), view=view).index()
        accounted(tmp_path / "in", index.places.to_pylist(), [s.place for s in index.skipped], elsewhere=["Gone/1"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1"),
        ("pairs\n", "line 1"),
        ("1\nAnn 1 2\nAnn 1 Bob 2\nAnn 1\n", "line 4"),
        ("1\nAnn one 2\n", "line 2"),
        ("2\nAnn 1 2\nAnn 1 Bob 2\n", "2 pairs, its first line announces 4"),
    ],
)
def test_damaged_pair_files(tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(SourceError, match=message):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_pair_files_in_other_encodings(tmp_path):
    (tmp_path / "pairs.txt").write_bytes("1\nAnn 1 2\nJos\xe9 1 Bob 2\n".encode("latin-1"))
    with pytest.raises(TextFileError, match=r"pairs\.txt: line 3 is not UTF-8"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_download(tmp_path, monkeypatch):
    """scikit-learn's downloader, which needs the internet, leaves lfw_home/lfw_funneled and the pair files."""
    import sklearn.datasets

    def fetch(data_home, **cfg):
        make(tmp_path / "lfw_home" / "lfw_funneled")
        (tmp_path / "lfw_home" / "pairs.txt").write_text("1\nBob 1 2\nBob 1 Ann_Lee 2\n")

    monkeypatch.setattr(sklearn.datasets, "fetch_lfw_people", fetch)
    assert len(build_source("lfw", str(tmp_path), view="view2", download=True).index()) == 3

    def offline(data_home, **cfg):
        raise OSError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_lfw_people", offline)
    with pytest.raises(ConnectionError, match=r"cannot be downloaded \(no route to host\); place it there yourself"):
        build_source("lfw", str(tmp_path / "other"), download=True)


def test_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="no LFW pictures"):
        build_source("lfw", str(tmp_path))
    make(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no pairs\.txt here"):
        build_source("lfw", str(tmp_path), view="view2")
    with pytest.raises(SourceError, match="view is 'view3'"):
        build_source("lfw", str(tmp_path), view="view3")
