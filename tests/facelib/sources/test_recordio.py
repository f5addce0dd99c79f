import pickle
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from facelib.sources import RecordIOReader, write_recordio

MAGIC = struct.pack("<I", 0xCED7230A)
FACES = [(4, [b"\xff\xd8a", b"\xff\xd8bb"]), (7, [b"\xff\xd8ccc" * 9000]), (2, [b"\xff\xd8d", b"e", b"f"])]
PAIRS = [(image, identity) for identity, images in FACES for image in images]


@pytest.fixture
def dataset(tmp_path):
    write_recordio(tmp_path / "train.rec", tmp_path / "train.idx", FACES)
    return tmp_path / "train.rec"


def whole(key, label, image=b"", flag=0, labels=()):
    payload = struct.pack("<IfQQ", flag, label, key, 0) + struct.pack(f"<{len(labels)}f", *labels) + image
    return MAGIC + struct.pack("<I", len(payload)) + payload + b"\0" * (-len(payload) % 4)


def write_by_hand(folder, records):
    """Bytes and index as the format's definition says, independent of the writer."""
    data, index = b"", ""
    for key, record in records:
        index += f"{key}\t{len(data)}\n"
        data += record
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text(index)
    return folder / "train.rec"


def test_smallest_example(dataset):
    reader = RecordIOReader(dataset, dataset.with_suffix(".idx"))
    assert len(reader) == 6
    assert reader[0] == (b"\xff\xd8a", 4)
    assert list(reader) == PAIRS
    assert reader[-1] == PAIRS[-1]
    with pytest.raises(IndexError):
        reader[6]


def test_identity_ranges(dataset):
    assert RecordIOReader(dataset).identity_ranges.tolist() == [[0, 2], [2, 3], [3, 6]]


def test_reads_bytes_made_by_hand(tmp_path):
    path = write_by_hand(
        tmp_path,
        [
            (0, whole(0, 0.0, flag=2, labels=(3, 4))),
            (1, whole(1, 12.0, b"image one")),
            (2, whole(2, 0.0, b"image two", flag=2, labels=(12, 1))),
            (3, whole(3, 0.0, flag=2, labels=(1, 3))),
        ],
    )
    reader = RecordIOReader(path)
    assert list(reader) == [(b"image one", 12), (b"image two", 12)]
    assert reader.identity_ranges.tolist() == [[0, 2]]


def test_set_without_identity_records(tmp_path):
    reader = RecordIOReader(write_by_hand(tmp_path, [(k, whole(k, k * 2.0, b"x%d" % k)) for k in range(4)]))
    assert list(reader) == [(b"x0", 0), (b"x1", 2), (b"x2", 4), (b"x3", 6)]
    assert reader.identity_ranges is None


def test_parts_are_joined_with_the_magic_between_them(tmp_path):
    header = struct.pack("<IfQQ", 0, 5.0, 1, 0)

    def part(kind, data):
        return MAGIC + struct.pack("<I", kind << 29 | len(data)) + data + b"\0" * (-len(data) % 4)

    record = part(1, header + b"abcd") + part(2, b"efghijkl") + part(2, b"") + part(3, b"xyz")
    reader = RecordIOReader(write_by_hand(tmp_path, [(1, record)]))
    assert reader[0] == (b"abcd" + MAGIC + b"efghijkl" + MAGIC + MAGIC + b"xyz", 5)


@pytest.mark.parametrize(
    "image", [MAGIC, MAGIC * 3, b"abcd" + MAGIC, b"ab" + MAGIC + b"cdef" + MAGIC, MAGIC + b"a", b"abc" + MAGIC]
)
def test_images_that_contain_the_magic_survive(tmp_path, image):
    write_recordio(tmp_path / "a.rec", tmp_path / "a.idx", [(1, [image, b"next"])])
    assert [data for data, _ in RecordIOReader(tmp_path / "a.rec")] == [image, b"next"]
    # No aligned magic may stand inside a record: readers without an index find records by it.
    words = np.frombuffer((tmp_path / "a.rec").read_bytes(), "<u4")
    aligned = sum(image[i : i + 4] == MAGIC for i in range(0, len(image), 4))
    assert (words == 0xCED7230A).sum() == 4 + aligned


def test_shared_by_threads_and_pickled(dataset):
    reader = RecordIOReader(dataset)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(reader.__getitem__, list(range(6)) * 50))
    assert results == PAIRS * 50
    assert list(pickle.loads(pickle.dumps(reader))) == PAIRS
    reader.close()
    assert reader[0] == PAIRS[0]


def test_every_truncation_names_the_record(dataset):
    data = dataset.read_bytes()
    offsets = [int(line.split()[1]) for line in dataset.with_suffix(".idx").read_text().splitlines()]
    last_image = sorted(offsets)[6]
    for length in (last_image + 1, last_image + 9, last_image + 30):
        dataset.write_bytes(data[:length])
        reader = RecordIOReader(dataset)
        with pytest.raises(ValueError, match=r"train\.rec: record 6 .*(truncated|past the end)"):
            reader[5]


def test_wrong_magic_names_the_record(dataset):
    offsets = dict(map(int, line.split()) for line in dataset.with_suffix(".idx").read_text().splitlines())
    data = bytearray(dataset.read_bytes())
    data[offsets[2]] ^= 1
    dataset.write_bytes(data)
    reader = RecordIOReader(dataset)
    assert reader[0] == PAIRS[0]
    with pytest.raises(ValueError, match=r"record 2 at byte .* not the RecordIO magic"):
        reader[1]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (MAGIC + struct.pack("<I", 2 << 29 | 4) + b"abcd", "part 2"),
        (MAGIC + struct.pack("<I", 4) + b"abcd", "too few for its header"),
        (whole(1, 0.0, flag=0)[:8] + struct.pack("<IfQQ", 1000, 0, 1, 0), "announces 1000 labels"),
        (whole(1, 3.0), "holds no image"),
    ],
)
def test_damaged_records(tmp_path, record, message):
    reader = RecordIOReader(write_by_hand(tmp_path, [(1, record)]))
    with pytest.raises(ValueError, match=rf"record 1 .*{message}"):
        reader[0]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("0\t0\n1\n", "not a RecordIO index"),
        ("0 0\n1 40\n", "not a RecordIO index"),
        ("", "not a RecordIO index"),
        ("0\t0\n0\t40\n", "record 0 is listed more than once"),
    ],
)
def test_damaged_index(dataset, index, message):
    dataset.with_suffix(".idx").write_text(index)
    with pytest.raises(ValueError, match=message):
        RecordIOReader(dataset)


def records_of(header, images, identities=3, appended=0):
    """A header (first identity record, one past the last), images, identity records, images that were appended."""
    records = [whole(0, 0.0, flag=2, labels=header)]
    records += [whole(0, n // 2, b"image %d" % n) for n in range(images)]
    records += [whole(0, 0.0, flag=2, labels=(1 + 2 * n, 3 + 2 * n)) for n in range(identities)]
    records += [whole(0, 9.0, b"image %d" % (images + n)) for n in range(appended)]
    return list(enumerate(records))


@pytest.mark.parametrize(
    ("header", "identities", "appended", "why"),
    [
        ((7, 10), 3, 6, "but the last record of train.idx is 15"),  # insightface 1589
        ((6, 6), 0, 0, "but the last record of train.idx is 6"),
        ((5, 10), 3, 0, "but record 5 holds an image"),
        ((9, 10), 3, 0, "but record 8 holds no image"),
        ((9, 7), 3, 0, "it gives the range of identity records as"),
    ],
)
def test_a_stale_header_loses_no_image(tmp_path, header, identities, appended, why):
    reader = RecordIOReader(write_by_hand(tmp_path, records_of(header, 6, identities, appended)))
    assert why in reader.stale_header
    assert [data for data, _ in reader] == [b"image %d" % n for n in range(6 + appended)]
    assert reader.identity_ranges is None


def test_a_damaged_header_loses_no_image(tmp_path):
    path = write_by_hand(tmp_path, records_of((7, 10), 6))
    path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])
    reader = RecordIOReader(path)
    assert "record 0 at byte 0 starts with 0" in reader.stale_header
    assert reader.image_keys.tolist() == [0, 1, 2, 3, 4, 5, 6]  # which record 0 may be
    assert reader[1] == (b"image 0", 0)


@pytest.mark.parametrize("first", [17186137, 17186138, 2**25 + 5, 2**26 + 3])
@pytest.mark.parametrize("damaged", [None, 3, 4, 5])
def test_numbers_that_float32_rounds(tmp_path, first, damaged):
    """insightface 1589 and 662: above 2^24 the header names a number near the first identity record."""
    records = [whole(0, n // 2, b"image %d" % n) for n in range(4)]
    ranges = [whole(0, 0.0, flag=2, labels=(1, 3)), whole(0, 0.0, flag=2, labels=(first - 2, first))]
    keys = [0, 1, 2, first - 2, first - 1, first, first + 1]
    header = whole(0, 0.0, flag=2, labels=(first, first + 2))
    path = write_by_hand(tmp_path, list(zip(keys, [header, *records, *ranges])))
    if damaged is not None:
        data = bytearray(path.read_bytes())
        offset = sum(len(record) for record in [header, *records, *ranges][:damaged])
        data[offset : offset + 4] = b"\0\0\0\0"
        path.write_bytes(data)
    reader = RecordIOReader(path)
    assert not reader.stale_header
    # A damaged record at the border may be an image.
    assert reader.image_keys.tolist() == [1, 2, first - 2, first - 1, *([first] if damaged == 5 else [])]
    assert reader.keys.tolist() == keys


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train\.rec"):
        RecordIOReader(tmp_path / "train.rec")
    (tmp_path / "train.rec").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"train\.idx"):
        RecordIOReader(tmp_path / "train.rec")
