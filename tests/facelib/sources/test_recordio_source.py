import struct

import pytest

from facelib.sources import SourceError, UnreadableImageError, build_source, write_recordio
from facelib.sources.record_file import frame_record

FACES = [(4, [b"\xff\xd8a", b"\xff\xd8bb"]), (70, [b"\xff\xd8ccc"]), (2, [b"\xff\xd8d", b"e", b"f"])]
EXPECTED = [
    ("2", b"\xff\xd8d"),
    ("2", b"e"),
    ("2", b"f"),
    ("4", b"\xff\xd8a"),
    ("4", b"\xff\xd8bb"),
    ("70", b"\xff\xd8ccc"),
]


@pytest.fixture
def rec(tmp_path):
    write_recordio(tmp_path / "train.rec", tmp_path / "train.idx", FACES)
    return tmp_path / "train.rec"


def listed(source):
    index = source.index()
    return [(entry.name, source.read(entry)) for entry in index.entries(0, len(index))], index


def image_record(key, label, image, flag=0):
    labels = struct.pack(f"<{flag}f", *[label] * flag)
    return frame_record(struct.pack("<IfQQ", flag, label, key, 0) + labels + image)


def test_smallest_example(rec):
    found, index = listed(build_source("recordio", str(rec)))
    assert found == EXPECTED
    assert index.names == ["2", "4", "70"]
    assert index.places[0].as_py() == "record 4"
    assert not index.skipped


def test_without_an_index_the_file_is_streamed(rec):
    with_index = build_source("recordio", str(rec)).index()
    rec.with_suffix(".idx").unlink()
    found, index = listed(build_source("recordio", str(rec.parent)))  # its folder will do
    assert found == EXPECTED
    assert index.offsets.tolist() == with_index.offsets.tolist()


@pytest.mark.parametrize("flag", [0, 2])
def test_set_without_identity_records(tmp_path, flag):
    data, lines = b"", ""
    for key, (label, image) in enumerate([(9, b"x"), (3, b"y"), (9, b"z")]):
        lines += f"{key}\t{len(data)}\n"
        data += image_record(key, label, image, flag)
    (tmp_path / "a.rec").write_bytes(data)
    (tmp_path / "a.idx").write_text(lines)
    for options in ({}, {"use_index": False}):
        assert listed(build_source("recordio", str(tmp_path / "a.rec"), **options))[0] == [
            ("3", b"y"),
            ("9", b"x"),
            ("9", b"z"),
        ]


def test_truncated_file_keeps_what_is_there(rec):
    """The identity records, at the end, are lost: the labels of the images are still known."""
    data = rec.read_bytes()
    offsets = dict(map(int, line.split()) for line in rec.with_suffix(".idx").read_text().splitlines())
    rec.write_bytes(data[: offsets[6] + 20])
    found, index = listed(build_source("recordio", str(rec)))
    assert found == EXPECTED[:2] + EXPECTED[3:]
    assert [(s.reason, s.place, s.damage) for s in index.skipped] == [("damaged_record", "record 6", True)]


def test_damage_is_found_when_it_is_read(rec):
    source = build_source("recordio", str(rec))
    index = source.index()
    data = bytearray(rec.read_bytes())
    data[int(index.offsets[1])] ^= 1
    rec.write_bytes(data)
    entry = index.entries(1, 2)[0]
    with pytest.raises(UnreadableImageError, match=r"damaged_record: .*train.rec: record 5 at byte .*magic"):
        source.read(entry)


def test_another_label_than_listed_is_damage(rec):
    index = build_source("recordio", str(rec)).index()
    data = bytearray(rec.read_bytes())
    place = int(index.offsets[1]) + 8 + 4
    data[place : place + 4] = struct.pack("<f", 70.0)
    rec.write_bytes(data)
    source = build_source("recordio", str(rec))
    index = source.index()
    assert index.counts.tolist() == [3, 2, 1]
    with pytest.raises(UnreadableImageError, match="wrong_label"):
        source.read(index.entries(1, 2)[0])


def test_repeated_lines_and_repeated_offsets(rec):
    index = rec.with_suffix(".idx")
    lines = sorted(index.read_text().splitlines(), key=lambda line: int(line.split()[0]))
    index.write_text("\n".join([*lines, lines[2]]) + "\n")
    found, listing = listed(build_source("recordio", str(rec)))
    assert found == EXPECTED
    assert [(s.reason, s.place) for s in listing.skipped] == [("listed_twice", "record 2")]
    key = lines[2].split("\t")[0]
    moved = [f"{key}\t{lines[1].split()[1]}" if line == lines[2] else line for line in lines]
    index.write_text("\n".join(moved) + "\n")
    found, listing = listed(build_source("recordio", str(rec)))
    assert ("listed_twice", "record 2") in [(s.reason, s.place) for s in listing.skipped]
    assert sorted(found) == sorted(e for e in EXPECTED if e[1] != b"\xff\xd8bb")


def test_an_index_that_lists_too_little_is_named(tmp_path):
    data = image_record(0, 1, b"a") + image_record(1, 2, b"b")
    (tmp_path / "a.rec").write_bytes(data)
    (tmp_path / "a.idx").write_text("0\t0\n")
    found, index = listed(build_source("recordio", str(tmp_path / "a.rec")))
    assert found == [("1", b"a")]
    assert [s.reason for s in index.skipped] == ["not_in_index"]
    assert listed(build_source("recordio", str(tmp_path / "a.rec"), use_index=False))[0] == [("1", b"a"), ("2", b"b")]


def test_the_index_of_another_file(rec, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    write_recordio(other / "train.rec", other / "train.idx", [(1, [b"\xff\xd8" * 999])] * 3)
    lines = (other / "train.idx").read_text().splitlines()
    (other / "flat.idx").write_text("\n".join(lines[1:-3]) + "\n")
    with pytest.raises(SourceError, match=r"no readable image record.*use_index"):
        build_source("recordio", str(rec), idx=str(other / "flat.idx")).index()


def test_options_are_checked(rec, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such index"):
        build_source("recordio", str(rec), idx="nowhere.idx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"0 \.rec files"):
        build_source("recordio", str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="no setting 'index'"):
        build_source("recordio", str(rec), index="x")
