"""Images of datasets and RecordIO files, part by part, as they are stored."""

import pytest
from support.datasets import write_dataset

from facelib.data import DatasetError
from facelib.data.image_tree import TreeIdentity
from facelib.sources import build_source, write_recordio
from facelib.sources.image_export import DatasetImages, RecordIOImages, is_recordio

FACES = [(4, [b"\xff\xd8a", b"\xff\xd8bb"]), (70, [b"\xff\xd8ccc"]), (2, [b"\xff\xd8d", b"no image", b"\xff\xd8f"])]


def test_a_dataset_part_by_part(tmp_path):
    dataset = write_dataset(tmp_path / "faces", identities=10, images=3, per_part=4, per_group=2)
    images = DatasetImages(str(tmp_path / "faces"))
    assert images.sizes == [12, 12, 6]
    read = [person for part in range(3) for person in images.read(part)]
    assert [(person.number, person.record_folder) for person in read] == [(i, f"0_{i}") for i in range(10)]
    stored = [data for table in dataset.tables(["image"]) for data in table["image"].to_pylist()]
    assert [image for person in read for image in person.images] == [(n % 3, d) for n, d in enumerate(stored)]
    with pytest.raises(DatasetError, match="no face dataset"):
        DatasetImages(str(tmp_path / "none"))


def test_records_part_by_part_and_what_cannot_be_read(tmp_path):
    for name in "ab":
        write_recordio(tmp_path / f"{name}.rec", tmp_path / f"{name}.idx", FACES)
    source = build_source("recordio", [f"{tmp_path}/a.rec", f"{tmp_path}/b.rec"])
    images = RecordIOImages(source, images_per_part=3)
    read = [item for part in range(len(images.sizes)) for item in images.read(part)]
    people = [item for item in read if isinstance(item, TreeIdentity)]
    # Labels ascend; a set's identity records follow its six images, in the order of the file: 4, 70, 2.
    assert [p.record_folder for p in people] == ["0_9", "0_7", "0_8", "1_9", "1_7", "1_8"]
    assert [p.number for p in people] == list(range(6))
    assert people[0].images == [(0, b"\xff\xd8d"), (2, b"\xff\xd8f")]
    skipped = [str(item) for item in read if not isinstance(item, TreeIdentity)]
    assert [text.partition(":")[0] for text in skipped] == ["a.rec record 5", "b.rec record 5"]


def test_without_identity_records_folders_have_labels(tmp_path):
    write_recordio(tmp_path / "a.rec", tmp_path / "a.idx", FACES)
    source = build_source("recordio", f"{tmp_path}/a.rec", use_index=False)
    assert source.rec2image_names(source.index()) == ["0_2", "0_4", "0_70"]


def test_which_inputs_are_recordio(tmp_path):
    (tmp_path / "ms1m").mkdir()
    (tmp_path / "ms1m/train.rec").touch()
    assert all(is_recordio([path]) for path in ("a.rec", "/x/*/train.REC", f"{tmp_path}/m*", f"{tmp_path}/ms1m"))
    assert is_recordio(["/x", "/y"])
    assert not any(is_recordio([path]) for path in ("faces", "s3://bucket/faces", str(tmp_path)))
