from pathlib import Path

import numpy as np
import pytest

from facelib.sources import (
    Entry,
    FaceSource,
    IndexBuilder,
    Skipped,
    SourceIndex,
    UnreadableImageError,
    available_sources,
    build_source,
    register_source,
)
from facelib.sources.source import count_skipped, numeric_order


@register_source("test_words")
class Words(FaceSource):
    """A stranger's source: every line of a text is a picture of its first letter."""

    alignment = "none"

    def __init__(self, path: str, upper: bool = False) -> None:
        self.words = Path(path).read_text().split()
        self.upper = upper

    def index(self) -> SourceIndex:
        builder = IndexBuilder()
        for word in self.words:
            builder.add(word[0], word)
        return builder.build()

    def read(self, entry: Entry) -> bytes:
        if entry.place == "ache":
            raise UnreadableImageError("damaged_file", "it hurts")
        return (entry.place.upper() if self.upper else entry.place).encode()


def test_smallest_example(tmp_path):
    (tmp_path / "words").write_text("bee ant ape bat ache")
    source = build_source("test_words", str(tmp_path / "words"), upper=True)
    assert isinstance(source, FaceSource)
    assert source.pair_lists() == []
    index = source.index()
    assert index.names == ["a", "b"]
    entries = index.entries(0, len(index))
    assert [(e.identity, e.name, e.index, e.place) for e in entries] == [
        (0, "a", 0, "ache"), (0, "a", 1, "ant"), (0, "a", 2, "ape"), (1, "b", 0, "bat"), (1, "b", 1, "bee"),
    ]  # fmt: skip
    assert source.read(entries[1]) == b"ANT"


def test_registry_lists_what_exists(tmp_path):
    assert {"bin", "folders", "ijb", "kface", "lfw", "recordio", "test_words"} <= set(available_sources())
    with pytest.raises(ValueError, match=r"unknown source 'zip': choose one of .*folders"):
        build_source("zip", str(tmp_path))
    with pytest.raises(ValueError, match=r"source 'test_words' has no setting 'lower'; it has: path, upper"):
        build_source("test_words", "x", lower=True)


def test_listed_twice_and_under_two_identities():
    builder = IndexBuilder()
    builder.add("ann", "1.jpg")
    builder.add("ann", "1.jpg")
    builder.add("bob", "1.jpg")
    builder.add("bob", "caf\udce9.jpg")
    builder.skip("not_a_picture_file", "notes.txt")
    index = builder.build()
    assert len(index) == 1
    assert count_skipped(index.skipped) == {
        "listed_twice": 1, "name_not_utf8": 1, "not_a_picture_file": 1, "two_identities": 1,
    }  # fmt: skip
    assert [s.damage for s in index.skipped] == [True, True, True, False]
    assert str(index.skipped[1]) == "1.jpg: two_identities (kept under 'ann')"


def test_landmarks_of_some_only():
    builder = IndexBuilder()
    points = np.arange(10, dtype=np.float32).reshape(5, 2)
    builder.add("ann", "1.jpg", landmarks=points, score=0.5)
    builder.add("ann", "2.jpg")
    first, second = builder.build().entries(0, 2)
    assert first.landmarks.tolist() == points.tolist()
    assert first.score == 0.5
    assert np.isnan(second.landmarks).all()
    assert np.isnan(second.score)


def test_parts_are_cut_between_identities():
    builder = IndexBuilder()
    for person, pictures in (("a", 3), ("b", 1), ("c", 5), ("d", 1)):
        for number in range(pictures):
            builder.add(person, f"{person}{number}")
    index = builder.build()
    assert index.counts.tolist() == [3, 1, 5, 1]
    assert index.split(4) == [(0, 4), (4, 9), (9, 10)]
    assert index.split(1) == [(0, 3), (3, 4), (4, 9), (9, 10)]
    assert index.split(100) == [(0, 10)]


def test_fingerprint_follows_content_and_not_order_of_adding():
    def fingerprint(rows):
        builder = IndexBuilder()
        for row in rows:
            builder.add(*row)
        return builder.build().fingerprint

    rows = [("a", "1"), ("b", "2"), ("b", "3")]
    assert fingerprint(rows) == fingerprint(rows[::-1])
    others = [rows[:2], [("a", "1"), ("a", "2"), ("b", "3")], [("a", "1", 5), *rows[1:]], [("c", "1"), *rows[1:]]]
    assert len({fingerprint(r) for r in [rows, *others]}) == 5


def test_numeric_order():
    assert sorted(["img10", "img2", "10", "9", "01", "1", "x"], key=numeric_order) == [
        "01",
        "1",
        "9",
        "10",
        "img2",
        "img10",
        "x",
    ]
    with pytest.raises(ValueError, match="identities must ascend"):
        SourceIndex(["a", "b"], np.array([1, 0]), ["x", "y"])
    assert not Skipped("few_images", "a").damage
