from pathlib import Path

import pytest
from support.datasets import write_dataset

from facelib.data import DatasetError, FaceDataset, Folder, PartCache


@pytest.fixture
def dataset(tmp_path):
    return write_dataset(tmp_path / "remote", identities=12, images=3, per_part=4, per_group=2)


def kept(cache):
    return {path.stem for path in Path(cache.directory).glob("*.parquet")}


def test_parts_are_read_from_storage_once(dataset, tmp_path):
    cache = PartCache(str(tmp_path / "cache"), 1 << 30)
    cached = FaceDataset(dataset.folder.uri, cache)
    expected = [table.to_pylist() for table in dataset.tables()]
    assert [table.to_pylist() for table in cached.tables()] == expected
    assert kept(cache) == {part.sha256 for part in dataset.manifest.parts}
    for part in dataset.manifest.parts:
        (tmp_path / "remote" / part.name).unlink()
    assert [table.to_pylist() for table in cached.tables()] == expected
    # Another process of the node, here another object, shares it.
    assert [table.to_pylist() for table in FaceDataset(dataset.folder.uri, cache).tables()] == expected


def test_the_least_recently_used_parts_make_room(dataset, tmp_path):
    first, second, third = dataset.manifest.parts
    cache = PartCache(str(tmp_path / "cache"), sum(sorted(part.bytes for part in (first, second, third))[1:]))
    for part in (first, second, first, third):
        cache.fetch(dataset.folder, part)
    assert kept(cache) == {first.sha256, third.sha256}
    assert cache.fetch(dataset.folder, second).exists()
    assert kept(cache) == {third.sha256, second.sha256}


def test_a_part_larger_than_the_cache_is_read_from_storage(dataset, tmp_path):
    cache = PartCache(str(tmp_path / "cache"), 100)
    assert cache.fetch(dataset.folder, dataset.manifest.parts[0]) is None
    cached = FaceDataset(dataset.folder.uri, cache)
    assert sum(len(table) for table in cached.tables()) == 36
    assert not (tmp_path / "cache").exists()


def test_a_part_deleted_before_it_is_opened_is_read_from_storage(dataset, tmp_path, monkeypatch):
    cache = PartCache(str(tmp_path / "cache"), 1 << 30)
    monkeypatch.setattr(PartCache, "fetch", lambda *_: tmp_path / "gone.parquet")
    assert sum(len(table) for table in FaceDataset(dataset.folder.uri, cache).tables()) == 36


def test_a_damaged_part_is_not_kept(dataset, tmp_path):
    part = dataset.manifest.parts[0]
    path = tmp_path / "remote" / part.name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    cache = PartCache(str(tmp_path / "cache"), 1 << 30)
    with pytest.raises(DatasetError, match=rf"{part.name}: differs from the manifest"):
        cache.fetch(dataset.folder, part)
    path.unlink()
    with pytest.raises(DatasetError, match=rf"{part.name}: cannot be copied to .*data\.cache_dir"):
        cache.fetch(dataset.folder, part)
    assert not kept(cache)
    assert [p.name for p in (tmp_path / "cache").iterdir() if not p.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written_is_named(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DatasetError, match=r"file/cache \(data\.cache_dir\): cannot be written"):
        PartCache(f"{tmp_path}/file/cache", 1 << 30).fetch(Folder(dataset.folder.uri), dataset.manifest.parts[0])
