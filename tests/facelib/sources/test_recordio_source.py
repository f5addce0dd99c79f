import struct

import numpy as np
import pytest

from facelib.sources import SourceError, UnreadableImageError, build_source, write_recordio
from facelib.sources.record_file import frame_record
from facelib.sources.source import count_skipped

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
    assert [(s.reason, s.count) for s in index.skipped] == [("not_in_index", 1)]
    assert listed(build_source("recordio", str(tmp_path / "a.rec"), use_index=False))[0] == [("1", b"a"), ("2", b"b")]


def write_set(folder, header, records, keys=None):
    """Header labels, then (label, image) records, (first, last) identity records, or bytes as they are."""
    data, lines = b"", ""
    payloads = [struct.pack("<IfQQff", 2, 0.0, 0, 0, *header)]
    for first, second in records:
        image = isinstance(second, bytes)
        payloads.append(struct.pack("<IfQQ", 0 if image else 2, first if image else 0.0, 0, 0))
        payloads[-1] += second if image else struct.pack("<ff", first, second)
    for key, payload in zip(keys or range(len(payloads)), payloads):
        lines += f"{key}\t{len(data)}\n"
        data += frame_record(payload)
    (folder / "a.rec").write_bytes(data)
    (folder / "a.idx").write_text(lines)
    return folder / "a.rec"


SIX = [(n // 2, b"x%d" % n) for n in range(6)]


def test_a_stale_header_is_said_and_loses_no_image(tmp_path):
    """insightface 1589: images were appended, and the header was not."""
    rec = write_set(tmp_path, (7, 10), [*SIX, (1, 3), (3, 5), (5, 7), *((n // 2, b"x%d" % n) for n in range(6, 12))])
    found, index = listed(build_source("recordio", str(rec)))
    assert found == [(str(n // 2), b"x%d" % n) for n in range(12)]
    assert [(s.reason, s.place, s.damage) for s in index.skipped] == [("stale_header", "record 0", True)]
    assert "but the last record of a.idx is 15" in index.skipped[0].detail
    rec = write_set(tmp_path, (6, 6), SIX)
    found, index = listed(build_source("recordio", str(rec)))
    assert found == [(str(n // 2), b"x%d" % n) for n in range(6)]
    assert [s.reason for s in index.skipped] == ["stale_header"]


def test_headers_that_other_tools_write(tmp_path):
    """No record 0 (insightface 357, 1166: numbers start at 1), a header with one label (Insightface-tensorflow 4)."""
    rec = write_set(tmp_path, (0, 0), SIX)
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text("\n".join(lines[1:]) + "\n")
    found, index = listed(build_source("recordio", str(rec)))
    assert (len(found), index.skipped) == (6, [])
    data, index_text = frame_record(struct.pack("<IfQQ", 0, 7.0, 0, 0)), "0\t0\n"
    for key, (label, image) in enumerate(SIX, 1):
        index_text += f"{key}\t{len(data)}\n"
        data += image_record(key, label, image)
    rec.write_bytes(data)
    rec.with_suffix(".idx").write_text(index_text)
    found, index = listed(build_source("recordio", str(rec)))
    assert found == [(str(label), image) for label, image in SIX]
    assert count_skipped(index.skipped) == {"no_image": 1, "stale_header": 1}


def test_a_record_with_fewer_bytes_than_labels(tmp_path):
    """insightface 122: "buffer is smaller than requested size"."""
    rec = write_set(tmp_path, (0, 0), SIX[:2])
    offset = rec.stat().st_size
    rec.write_bytes(rec.read_bytes() + frame_record(struct.pack("<IfQQ", 900, 1.0, 3, 0) + b"abcd"))
    with rec.with_suffix(".idx").open("a") as file:
        file.write(f"3\t{offset}\n")
    found, index = listed(build_source("recordio", str(rec)))
    assert len(found) == 2
    assert {(s.reason, s.place) for s in index.skipped} >= {("damaged_record", "record 3")}


def test_large_numbers_are_read_as_small_ones(tmp_path):
    """insightface 662 and 1589: numbers with gaps, above 2^24, and a damaged record."""
    first = 17186137
    records = [*SIX[:4], (1, 3), (first - 2, first)]
    rec = write_set(tmp_path, (first, first + 2), records, [0, 1, 2, first - 2, first - 1, first, first + 1])
    found, index = listed(build_source("recordio", str(rec)))
    assert found == [(str(label), image) for label, image in SIX[:4]]
    assert not index.skipped
    rec = write_set(tmp_path, (first, first + 2), records, [0, 1, first - 3, first - 2, first - 1, first, first + 1])
    data = bytearray(rec.read_bytes())
    offset = int(rec.with_suffix(".idx").read_text().splitlines()[4].split()[1])
    data[offset : offset + 4] = b"\0\0\0\0"
    rec.write_bytes(data)
    found, index = listed(build_source("recordio", str(rec)))
    assert found == [(str(label), image) for label, image in SIX[:3]]
    assert [(s.reason, s.place) for s in index.skipped] == [("damaged_record", f"record {first - 1}")]


@pytest.mark.parametrize("seed", range(20))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    """Any header, identity records where they may be, damaged images, lines of the index that are missing or twice."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(6, 24))
    records = [(int(label), b"x%03d" % n) for n, label in enumerate(np.sort(rng.integers(0, 6, count)))]
    for _ in range(rng.integers(0, 4)):
        records.insert(int(rng.integers(len(records) + 1)), (1, int(rng.integers(1, 9))))
    if rng.integers(2):
        records.append((3, b""))
        count += 1
    rec = write_set(tmp_path, rng.integers(0, len(records) + 3, 2).tolist(), records)
    lines = rec.with_suffix(".idx").read_text().splitlines()
    data = bytearray(rec.read_bytes())
    # Not two in a row: without their heads no one can tell how many there are.
    for number in range(int(rng.integers(1, 5)), len(records), int(rng.integers(2, 20))):
        if isinstance(records[number - 1][1], bytes):
            data[int(lines[number].split()[1])] ^= 1
    rec.write_bytes(data)
    kept = [line for number, line in enumerate(lines) if number == 0 or rng.random() < 0.8]
    rec.with_suffix(".idx").write_text("\n".join([*kept, kept[-1]]) + "\n")
    for options in ({}, {"use_index": False}):
        index = build_source("recordio", str(rec), **options).index()
        counts = count_skipped(index.skipped)
        assert counts.pop("listed_twice", 1) == 1
        counts.pop("stale_header", None)
        assert set(counts) <= {"damaged_record", "no_image", "not_in_index"}
        assert len(index) + sum(counts.values()) == count


def test_an_index_of_windows_and_files_of_macos(tmp_path):
    rec = write_set(tmp_path, (7, 7), SIX)
    rec.with_suffix(".idx").write_bytes(b"\xef\xbb\xbf" + rec.with_suffix(".idx").read_bytes().replace(b"\n", b"\r\n"))
    (tmp_path / "._a.rec").write_bytes(b"\x00\x05\x16\x07")
    found, index = listed(build_source("recordio", str(tmp_path)))
    assert len(found) == 6
    assert not index.skipped
    rec.with_suffix(".idx").write_text("0\t0\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"a\.idx: is UTF-16"):
        build_source("recordio", str(rec)).index()


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


@pytest.fixture
def recs(tmp_path):
    """Two sets, a/train.rec and b/train.rec, which share the labels 4 and 70."""
    others = [(70, [b"\xff\xd8x"]), (4, [b"\xff\xd8y", b"\xff\xd8zz"]), (5, [b"\xff\xd8w"])]
    for folder, faces in (("a", FACES), ("b", others)):
        (tmp_path / folder).mkdir()
        write_recordio(tmp_path / folder / "train.rec", tmp_path / folder / "train.idx", faces)
    return [str(tmp_path / folder / "train.rec") for folder in "ab"]


def reference_identities(recs, merged):
    """Image bytes by identity, file by file and record by record."""
    from facelib.sources import RecordIOReader

    people = {}
    for number, rec in enumerate(recs):
        for image, label in RecordIOReader(rec):
            people.setdefault((0 if merged else number, label), []).append(image)
    return [people[key] for key in sorted(people)]


@pytest.mark.parametrize("identities", ["separate", "merged"])
def test_several_files(recs, identities, tmp_path):
    source = build_source("recordio", recs, identities=identities)
    found, index = listed(source)
    groups = [[image for name, image in found if name == person] for person in index.names]
    assert groups == reference_identities(recs, identities == "merged")
    separate = ["0_2", "0_4", "0_70", "1_4", "1_5", "1_70"]
    assert index.names == (separate if identities == "separate" else ["2", "4", "5", "70"])
    assert index.places[0].as_py() == "a/train.rec record 4"
    assert len(set(index.places.to_pylist())) == len(index) == 10
    # A pattern finds the same files, and so does a pattern of their folders.
    for pattern in (f"{tmp_path}/*/train.rec", f"{tmp_path}/[ab]"):
        again = build_source("recordio", pattern, identities=identities).index()
        assert again.fingerprint == index.fingerprint


def test_several_files_are_read_by_their_own_labels_and_damage_names_its_file(recs, tmp_path):
    data = bytearray((tmp_path / "b/train.rec").read_bytes())
    [line] = [line for line in (tmp_path / "b/train.idx").read_text().splitlines() if line.startswith("4\t")]
    offset = int(line.split()[1])
    data[offset : offset + 4] = b"gone"
    (tmp_path / "b/train.rec").write_bytes(data)
    source = build_source("recordio", recs)
    index = source.index()
    readable = 0
    for entry in index.entries(0, len(index)):
        if entry.place == "b/train.rec record 4":
            with pytest.raises(UnreadableImageError, match=r"b/train\.rec"):
                source.read(entry)
        else:
            readable += bool(source.read(entry))
    assert readable + len(index.skipped) >= 9
    assert all(s.place.startswith("b/train.rec ") for s in index.skipped)


def test_mistakes_with_several_files_are_named(recs, tmp_path):
    with pytest.raises(SourceError, match=r"train\.rec is given twice"):
        build_source("recordio", [*recs, f"{tmp_path}/a"])
    with pytest.raises(SourceError, match="no file fits this pattern"):
        build_source("recordio", f"{tmp_path}/*/other.rec")
    with pytest.raises(ValueError, match=r"idx: 1 files for 2 \.rec files"):
        build_source("recordio", recs, idx=[f"{tmp_path}/a/train.idx"])
    with pytest.raises(ValueError, match="'separate' or 'merged'"):
        build_source("recordio", recs, identities="joined")
    with pytest.raises(ValueError, match="'folders' takes one path, not 2"):
        build_source("folders", recs)
