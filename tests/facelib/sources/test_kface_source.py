import contextlib

import numpy as np
import pytest
from support.listing import accounted, random_tree

from facelib.sources import SourceError, build_source
from facelib.sources.kface import VARIANCES, KFaceError, parse_variance
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


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbf19100002\r\n19100003\r\n",
        b"19100002,19100003\n",
        b"19100002/\n./19100003\n",
        b'# the test identities\n"19100002";"19100003"\n',
        b"/data/KFACE/High/19100002\n.\\19100003\n",
    ],
)
def test_however_a_list_spells_the_test_identities_they_are_left_out(folder, text):
    """A name that is read wrong leaves a test identity in the training set."""
    path = folder.parent / "exclude.txt"
    path.write_bytes(text)
    index = build_source("kface", str(folder), exclude=str(path)).index()
    assert index.names == ["19100001"]
    assert [(s.reason, s.place) for s in index.skipped] == [("excluded", "19100002"), ("excluded", "19100003")]


def test_names_to_leave_out_that_are_not_there(folder):
    path = folder.parent / "exclude.txt"
    path.write_text("19100002\n99999999\n")
    index = build_source("kface", str(folder), exclude=str(path)).index()
    assert index.names == ["19100001", "19100003"]
    unknown = [s for s in index.skipped if s.reason == "unknown_identity"]
    assert [(s.place, s.damage) for s in unknown] == [("99999999", True)]
    path.write_text("99999999\n")
    with pytest.raises(KFaceError, match="none of the 1 identities to leave out is here, the first is '99999999'"):
        build_source("kface", str(folder), exclude=str(path)).index()
    path.write_bytes("19100002\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"exclude\.txt: is UTF-16"):
        build_source("kface", str(folder), exclude=str(path))


def test_pair_lists_spell_paths_in_their_own_way(folder):
    a, b = (f"1910000{n}/S001/L1/E01/C4.jpg" for n in (1, 2))
    path = folder.parent / "Q1.txt"
    path.write_bytes(f"\ufeff./{a} {b.replace('/', chr(92))} 0\r\n".encode())
    source = build_source("kface", str(folder), pairs=[str(path)])
    assert places(source.index()) == [a, b]
    assert not source.index().skipped
    (folder.parent / "other").mkdir()
    (folder.parent / "other/Q1.txt").write_text(f"{a} {b} 0\n")
    with pytest.raises(SourceError, match="have one name"):
        build_source("kface", str(folder), pairs=[str(path), str(folder.parent / "other/Q1.txt")])


@pytest.mark.parametrize("seed", range(10))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    rng = np.random.default_rng(seed)
    names = ["19100001", "19100002", "S001", "S002", "L1", "L8", "E01", "E02", "other", ".git"]
    files = ["C1.jpg", "C2.JPG", "C10.png", "x.jpg", "notes.txt", ".C1.jpg", "._C1.jpg"]
    for identity in ("19100001", "19100002", "19100003"):
        for place in ("S001/L1/E01", "S002/L8/E02"):
            (tmp_path / "in" / identity / place).mkdir(parents=True)
            for pose in rng.choice(20, 3, replace=False) + 1:
                (tmp_path / "in" / identity / place / f"C{pose}.jpg").write_bytes(b"x")
    random_tree(tmp_path / "in", rng, files, names, depth=6)
    (tmp_path / "exclude.txt").write_text("19100002\n19100009\n")
    for select in ("T4", "T1", "s1 l1 e1 c1~20"):
        source = build_source("kface", str(tmp_path / "in"), select=select, exclude=str(tmp_path / "exclude.txt"))
        with contextlib.suppress(KFaceError):  # no image at all
            index = source.index()
            accounted(tmp_path / "in", places(index), [s.place for s in index.skipped], elsewhere=["19100009"])


def test_refuses(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="identities to leave out"):
        build_source("kface", str(folder), exclude="nowhere.txt")
    (tmp_path / "nobody.txt").write_text("\n")
    with pytest.raises(KFaceError, match="names no identity"):
        build_source("kface", str(folder), exclude=str(tmp_path / "nobody.txt"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_source("kface", str(tmp_path / "nowhere"))
