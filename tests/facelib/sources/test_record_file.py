import itertools
import pickle

import pytest

from facelib.sources import RecordFile, RecordIOReader, write_recordio
from facelib.sources.record_file import MAGIC

FACES = [
    (person, [b"\xff\xd8" + bytes([person, number]) * (50 + 700 * number) for number in range(3)])
    for person in (3, 1, 2)
]
# Pictures that hold the magic at a word boundary are stored in parts.
FACES[1][1][0] = b"abcd" + MAGIC + b"efgh" + MAGIC + b"x"
PICTURES = [(picture, person) for person, pictures in FACES for picture in pictures]


@pytest.fixture
def rec(tmp_path):
    write_recordio(tmp_path / "train.rec", tmp_path / "train.idx", FACES)
    return tmp_path / "train.rec"


def pictures(records):
    return [(r.image, int(r.labels[0])) for r in records if r.image]


def test_smallest_example(rec):
    records = list(RecordFile(rec).scan())
    assert pictures(records) == PICTURES
    assert not any(r.damage for r in records)
    assert len(records) == 1 + 9 + 3  # header record, images, identity records
    labels, image = RecordFile(rec).record(records[1].offset)
    assert (labels.tolist(), image) == ([3.0], FACES[0][1][0])


@pytest.mark.parametrize("ranges", [2, 3, 7, 50])
def test_ranges_together_give_every_record_once(rec, ranges):
    file = RecordFile(rec)
    cuts = [file.size * i // ranges for i in range(ranges + 1)]
    pieces = [r for begin, end in itertools.pairwise(cuts) for r in file.scan(begin, end)]
    assert [r.offset for r in pieces] == [r.offset for r in file.scan()]
    assert pictures(pieces) == PICTURES


def test_labels_from_the_first_bytes(rec):
    reader, file = RecordIOReader(rec), RecordFile(rec)
    offsets = reader.offsets(reader.image_keys)
    assert [file.head(int(offset)) for offset in offsets] == [(float(person), 1, True) for _, person in PICTURES]
    assert file.head(0) == (10.0, 2, False)


@pytest.mark.parametrize("ranges", [1, 2, 5, 40])
@pytest.mark.parametrize("damage", ["magic", "length", "part", "zeros", "tail"])
def test_damage_is_given_once_and_the_next_record_is_found(rec, damage, ranges):
    clean = list(RecordFile(rec).scan())
    data = bytearray(rec.read_bytes())
    hurt, after = clean[5].offset, clean[6].offset
    if damage == "magic":
        data[hurt] ^= 255
    elif damage == "length":
        data[hurt + 4 : hurt + 7] = b"\xff\xff\xff"
    elif damage == "part":
        data[hurt + 7] = 3 << 5  # a last part without a first
    elif damage == "zeros":
        data[hurt:after] = bytes(after - hurt)
    else:
        del data[clean[-1].offset + 10 :]
        hurt = clean[-1].offset
    rec.write_bytes(data)
    file = RecordFile(rec)
    cuts = [file.size * i // ranges for i in range(ranges + 1)]
    found = [r for begin, end in itertools.pairwise(cuts) for r in file.scan(begin, end)]
    assert [r.offset for r in found if r.damage] == [hurt]
    assert str(rec) in next(r.damage for r in found if r.damage)
    assert [r.offset for r in found if not r.damage] == [r.offset for r in clean if r.offset != hurt]


def test_garbage_is_one_damaged_stretch(tmp_path):
    (tmp_path / "a.rec").write_bytes(b"no record anywhere" * 1000)
    found = list(RecordFile(tmp_path / "a.rec").scan())
    assert len(found) == 1
    assert "not the RecordIO magic" in found[0].damage
    (tmp_path / "empty.rec").write_bytes(b"")
    assert list(RecordFile(tmp_path / "empty.rec").scan()) == []


def test_pickled_and_missing(rec, tmp_path):
    assert pictures(pickle.loads(pickle.dumps(RecordFile(rec))).scan()) == PICTURES
    with pytest.raises(FileNotFoundError, match=r"none\.rec"):
        RecordFile(tmp_path / "none.rec")
