import numpy as np
import pytest
from support.datasets import pattern, write_dataset

from facelib.data import MANIFEST_NAME, DatasetError, FaceDataset, decode_image, read_part_info


def test_a_dataset_is_written_and_read(tmp_path):
    dataset = write_dataset(tmp_path, identities=5, images=3, per_part=2, per_group=2)
    assert dataset.manifest.identities == 5
    assert dataset.manifest.images == 15
    rows = [row for table in dataset.tables() for row in table.to_pylist()]
    assert [r["identity"] for r in rows] == np.repeat(np.arange(5), 3).tolist()
    difference = decode_image(rows[4]["image"]).astype(int) - pattern(1, 1)
    assert np.abs(difference).mean() < 3
    dataset.verify()
    dataset.check_parts()


def test_an_identity_never_crosses_a_row_group(tmp_path):
    dataset = write_dataset(tmp_path, identities=7, images=3, per_part=7, per_group=2)
    seen: set[int] = set()
    for part, index, identities, rows in dataset.row_groups():
        found = dataset.read_row_groups(part, [index], ["identity"])["identity"].to_pylist()
        assert len(found) == rows
        assert len(set(found)) == identities
        assert not seen & set(found)
        seen |= set(found)
    assert seen == set(range(7))


def test_an_unfinished_folder_is_not_a_dataset(tmp_path):
    with pytest.raises(DatasetError, match="is no face dataset"):
        FaceDataset(str(tmp_path / "nothing"))
    write_dataset(tmp_path)
    (tmp_path / MANIFEST_NAME).unlink()
    with pytest.raises(DatasetError, match="is unfinished"):
        FaceDataset(str(tmp_path))


def test_damage_is_found_and_named(tmp_path):
    dataset = write_dataset(tmp_path)
    victim = tmp_path / dataset.manifest.parts[1].name
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    with pytest.raises(DatasetError, match=victim.name):
        dataset.verify()
    victim.write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=victim.name):
        read_part_info(dataset.folder, victim.name)
    with pytest.raises(DatasetError, match=f"{victim.name}: has"):
        dataset.check_parts()
    victim.unlink()
    with pytest.raises(DatasetError, match=f"{victim.name}: is missing"):
        dataset.check_parts()
    (tmp_path / MANIFEST_NAME).write_text('{"format": 1}')
    with pytest.raises(DatasetError, match="damaged"):
        FaceDataset(str(tmp_path))
