import contextlib
import os

import numpy as np
import pytest
from support.listing import accounted, random_tree

from facelib.sources import SourceError, UnreadableImageError, build_source
from facelib.sources.source import count_skipped


def make(folder, *places):
    for place in places:
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"bytes of {place}".encode())


def listed(path, **options):
    source = build_source("folders", str(path), **options)
    index = source.index()
    return [(e.name, e.place) for e in index.entries(0, len(index))], count_skipped(index.skipped)


def test_smallest_example(tmp_path):
    make(tmp_path, "bob/2.png", "ann/1.jpg", "ann/0.JPEG", "ann/notes.txt", "stray.jpg", "ann/.hidden.jpg")
    found, skipped = listed(tmp_path)
    assert found == [("ann", "ann/0.JPEG"), ("ann", "ann/1.jpg"), ("bob", "bob/2.png")]
    assert skipped == {"hidden_file": 1, "no_identity": 1, "not_a_picture_file": 1}
    source = build_source("folders", str(tmp_path))
    assert source.read(source.index().entries(2, 3)[0]) == b"bytes of bob/2.png"


def test_levels(tmp_path):
    make(tmp_path, "train/ann/1.jpg", "train/bob/a/2.jpg", "val/ann/3.jpg")
    assert [name for name, _ in listed(tmp_path)[0]] == ["train", "train", "val"]
    assert [name for name, _ in listed(tmp_path, level=2)[0]] == ["train/ann", "train/bob", "val/ann"]
    assert [name for name, _ in listed(tmp_path, level=0)[0]] == ["train/ann", "train/bob/a", "val/ann"]
    assert listed(tmp_path, level=3) == ([("train/bob/a", "train/bob/a/2.jpg")], {"no_identity": 2})


def test_flat_without_labels(tmp_path):
    make(tmp_path, "b.jpg", "a.jpg", "sub/c.jpg")
    assert listed(tmp_path, layout="flat")[0] == [(p, p) for p in ("a.jpg", "b.jpg", "sub/c.jpg")]


def test_digiface(tmp_path):
    """Two zip files, each unpacked into a folder of its own name; subjects and pictures count, they are not sorted as
    text."""
    make(tmp_path, *(f"subjects_0-1999_72_imgs/{s}/{n}.png" for s in (2, 10) for n in (0, 2, 10)))
    make(tmp_path, "subjects_2000-3999_72_imgs/2000/0.png", "readme/x.png")
    found, skipped = listed(tmp_path, layout="digiface")
    assert list(dict.fromkeys(name for name, _ in found)) == ["2", "10", "2000"]
    assert [place.rpartition("/")[2] for _, place in found[:3]] == ["0.png", "2.png", "10.png"]
    assert skipped == {"no_identity": 1}


@pytest.mark.parametrize("mark", [" ", "\t", ", "])
def test_list_file(tmp_path, mark):
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    lines = [("b.jpg", "bob"), ("a.jpg", "ann"), ("c.jpg", "ann")]
    (tmp_path / "list.txt").write_text("\n".join(mark.join(line) for line in lines) + "\n\n")
    found, skipped = listed(tmp_path, layout="list", list="list.txt")
    assert found == [("ann", "a.jpg"), ("ann", "c.jpg"), ("bob", "b.jpg")]
    assert not skipped


def test_list_file_with_landmarks(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg")
    points = " ".join(str(n + 0.5) for n in range(10))
    (tmp_path / "list.txt").write_text(f"a.jpg ann {points} 0.9\nb.jpg ann {points}\n")
    source = build_source("folders", str(tmp_path), layout="list", list="list.txt")
    assert source.alignment == "given"
    first, second = source.index().entries(0, 2)
    assert first.landmarks.ravel().tolist() == [n + 0.5 for n in range(10)]
    assert first.score == pytest.approx(0.9)
    assert np.isnan(second.score)


def test_what_a_list_file_must_not_say(tmp_path):
    make(tmp_path, "in/a.jpg", "secret.jpg", "in/b.jpg")
    (tmp_path / "in" / "list.txt").write_text(
        "a.jpg ann\na.jpg ann\na.jpg bob\n../secret.jpg ann\nx/../../secret.jpg ann\n"
        f"{tmp_path}/in/b.jpg ann\ngone.jpg ann\nalone\nb.jpg ann 1 2 3\nb.jpg ann {'nan ' * 10}\n"
    )
    source = build_source("folders", str(tmp_path / "in"), layout="list", list="list.txt")
    index = source.index()
    assert [(e.name, e.place) for e in index.entries(0, len(index))] == [("ann", "a.jpg"), ("ann", "b.jpg")]
    assert count_skipped(index.skipped) == {
        "damaged_line": 3, "listed_twice": 1, "missing_file": 1, "outside_folder": 2, "two_identities": 1,
    }  # fmt: skip
    assert all(s.damage for s in index.skipped)
    assert "list.txt, line 8" in [s.place for s in index.skipped]


def test_links_do_not_lead_out_unless_they_are_asked_to(tmp_path):
    make(tmp_path, "in/ann/1.jpg", "out/eve/2.jpg")
    os.symlink(tmp_path / "out" / "eve", tmp_path / "in" / "eve")
    os.symlink(tmp_path / "out" / "eve" / "2.jpg", tmp_path / "in" / "ann" / "2.jpg")
    os.symlink(tmp_path / "in" / "ann", tmp_path / "in" / "again")
    os.symlink(tmp_path / "in", tmp_path / "in" / "ann" / "loop")
    found, skipped = listed(tmp_path / "in")
    assert found == [("ann", "ann/1.jpg")]
    assert skipped == {"link_within_folder": 2, "outside_folder": 2}
    followed, _ = listed(tmp_path / "in", follow_links=True)
    assert {place.rpartition("/")[2] for _, place in followed} == {"1.jpg", "2.jpg"}


def test_a_file_that_becomes_a_link_after_listing_is_not_read(tmp_path):
    make(tmp_path, "in/ann/1.jpg", "secret.jpg")
    source = build_source("folders", str(tmp_path / "in"))
    entry = source.index().entries(0, 1)[0]
    (tmp_path / "in/ann/1.jpg").unlink()
    with pytest.raises(UnreadableImageError, match="missing_file"):
        source.read(entry)
    os.symlink(tmp_path / "secret.jpg", tmp_path / "in/ann/1.jpg")
    with pytest.raises(UnreadableImageError, match="outside_folder"):
        source.read(entry)
    (tmp_path / "in/ann/1.jpg").unlink()
    (tmp_path / "in/ann/1.jpg").write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="empty_file"):
        source.read(entry)


def test_two_lines_of_one_picture_are_told_apart_from_two_pictures(tmp_path):
    """insightface 127: `a.jpg` and `./a.jpg` under two identities."""
    make(tmp_path, "a.jpg", "b.jpg")
    os.symlink("b.jpg", tmp_path / "c.jpg")
    (tmp_path / "list.txt").write_text("a.jpg 0\n./a.jpg 1\nb.jpg 2\nc.jpg 2\n")
    found, skipped = listed(tmp_path, layout="list", list="list.txt")
    assert found == [("0", "a.jpg"), ("2", "b.jpg")]
    assert skipped == {"listed_twice": 1, "two_identities": 1}


@pytest.mark.parametrize("seed", range(10))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    rng = np.random.default_rng(seed)
    random_tree(tmp_path / "in", rng)
    for options in ({}, {"level": 0}, {"level": 2}, {"layout": "flat"}, {"layout": "digiface"}):
        with contextlib.suppress(SourceError):  # no image at all
            index = build_source("folders", str(tmp_path / "in"), **options).index()
            accounted(tmp_path / "in", index.places.to_pylist(), [s.place for s in index.skipped])


@pytest.mark.parametrize("seed", range(10))
def test_every_line_of_a_list_is_listed_or_left_out(tmp_path, seed):
    rng = np.random.default_rng(seed)
    make(tmp_path, *(f"{n}.jpg" for n in range(6)))
    paths = ["{}.jpg", "./{}.jpg", "../{}.jpg", f"{tmp_path}/{{}}.jpg", "x\\{}.jpg", "{}.png"]
    lines = [f"{paths[rng.integers(6)].format(rng.integers(7))} {rng.integers(4)}" for _ in range(30)]
    lines += ["alone", "a.jpg 1 2 3", b"lat\xe9.jpg 1".decode("latin-1")]
    (tmp_path / "list.txt").write_bytes("\r\n".join(lines).encode("latin-1"))
    source = build_source("folders", str(tmp_path), layout="list", list="list.txt")
    index = source.index()
    assert len(index) + len(index.skipped) == len(lines)
    assert index.places.to_pylist() == list(dict.fromkeys(index.places.to_pylist()))
    assert len(index) > 0


def test_refuses(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_source("folders", str(tmp_path / "nowhere"))
    with pytest.raises(SourceError, match="no pictures in the layout 'folders'"):
        build_source("folders", str(tmp_path)).index()
    with pytest.raises(FileNotFoundError, match="no such list file"):
        build_source("folders", str(tmp_path), layout="list", list="list.txt")
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(SourceError, match="an empty list file"):
        build_source("folders", str(tmp_path), layout="list", list="list.txt")
    for options, message in (
        ({"layout": "tree"}, "layout is 'tree'"),
        ({"level": -1}, "level is -1"),
        ({"list": "list.txt"}, "goes with layout 'list' only"),
    ):
        with pytest.raises(SourceError, match=message):
            build_source("folders", str(tmp_path), **options)
