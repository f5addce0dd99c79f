import pytest

from facelib.sources import SourceError, build_source
from facelib.sources.kface import VARIANCES, parse_variance
from facelib.sources.kface_source import TRAINING_SETS


@pytest.fixture
def folder(tmp_path):
    for identity in ("19100002", "19100001", "19100003"):
        for place in ("S001/L1/E01", "S002/L8/E02"):
            (tmp_path / "kface" / identity / place).mkdir(parents=True)
            for pose in (2, 4, 10):
                (tmp_path / "kface" / identity / place / f"C{pose}.jpg").write_bytes(b"x")
    (tmp_path / "test_identities.txt").write_text("19100002\n")
    return tmp_path / "kface"


def places(index):
    return index.places.to_pylist()


def test_smallest_example(folder):
    exclude = str(folder.parent / "test_identities.txt")
    index = build_source("kface", str(folder), select="T1", exclude=exclude).index()
    assert index.names == ["19100001", "19100003"]
    assert places(index)[:2] == ["19100001/S001/L1/E01/C4.jpg", "19100001/S001/L1/E01/C10.jpg"]
    everything = build_source("kface", str(folder), exclude=exclude).index()
    assert everything.counts.tolist() == [6, 6]
    # Landmarks come from the plain picture of the same identity and pose.
    last = everything.entries(len(everything) - 1, len(everything))[0]
    assert (last.place, last.landmark_place) == ("19100003/S002/L8/E02/C10.jpg", "19100003/S001/L1/E01/C10.jpg")


@pytest.mark.parametrize(("name", "pictures"), [("T1", 2_590), ("T2", 46_620), ("T3", 654_160), ("T4", 3_862_800)])
def test_published_training_sets(name, pictures):
    """The published numbers of pictures are those of 370 training identities."""
    numbers = [parse_variance(part, letter) for part, letter in zip(TRAINING_SETS[name].split(), VARIANCES)]
    per_identity = 1
    for chosen in numbers:
        per_identity *= len(chosen)
    assert 370 * per_identity == pictures


def test_selection_strings(folder):
    assert len(build_source("kface", str(folder), select="s1~6 l1~6,8~30 e1~3 c1~20").index()) == 18
    assert len(build_source("kface", str(folder), select="s1~2 l2~8 e1~3 c4").index()) == 3
    for select in ("T5", "s1 l1 e1", "l1 s1 e1 c1"):
        with pytest.raises(SourceError, match="select is"):
            build_source("kface", str(folder), select=select)
    with pytest.raises(ValueError, match="poses is 'c21'"):
        build_source("kface", str(folder), select="s1 l1 e1 c21")


def test_pair_lists(folder):
    a, b, gone = (f"1910000{n}/S001/L1/E01/C4.jpg" for n in (1, 2, 9))
    (folder.parent / "Q1.txt").write_text(f"{a} {b} 0\n{a} {gone} 0\n")
    source = build_source("kface", str(folder), pairs=[str(folder.parent / "Q1.txt")])
    index = source.index()
    assert places(index) == [a, b]
    assert [(s.reason, s.place) for s in index.skipped] == [("missing_file", gone)]
    pairs = source.pair_lists()[0]
    assert (pairs.name, pairs.first, pairs.issame.tolist()) == ("Q1", [a, a], [False, False])


def test_refuses(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="identities to leave out"):
        build_source("kface", str(folder), exclude="nowhere.txt")
    (tmp_path / "nobody.txt").write_text("\n")
    with pytest.raises(SourceError, match="names no identity"):
        build_source("kface", str(folder), exclude=str(tmp_path / "nobody.txt"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_source("kface", str(tmp_path / "nowhere"))
