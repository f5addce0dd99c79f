"""The export_images job: byte for byte what is stored, in the layouts of others, also after an interruption."""

import pytest
from support.datasets import write_dataset

from facelib.config import SettingsError, load_settings
from facelib.data import DatasetError
from facelib.sources import RecordIOReader, write_recordio
from ray_jobs.datasets.image_export import export_part
from ray_jobs.export_images import export_images, export_spec, open_images, validate


def cfg(tmp_path, *overrides):
    return load_settings(None, [f"output={tmp_path}", *overrides])


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rec2image(recs):
    """The tree of insightface's script: sets in their order, and each one's identity records in theirs."""
    tree = {}
    for number, rec in enumerate(recs):
        reader = RecordIOReader(rec)
        first, end = map(int, reader.record(0)[0])
        for identity in range(first, end):
            begin, stop = map(int, reader.record(identity)[0])
            for count, record in enumerate(range(begin, stop)):
                tree[f"{number}_{identity}/{count}.jpg"] = reader.record(record)[1]
    return tree


def test_a_dataset_and_a_killed_export(tmp_path, run, ray_cluster):
    dataset = write_dataset(tmp_path / "faces", identities=6, images=2, per_part=2)
    validate(cfg(tmp_path))
    result = export_images(cfg(tmp_path), run)
    tree = tmp_path / "image_tree"
    assert result.written == (f"{tree}/images",)
    assert result.metrics == {"images": 12, "identities": 6}
    stored = [data for table in dataset.tables(["image"]) for data in table["image"].to_pylist()]
    names = [f"{i:07d}/{i:07d}_{j:03d}.jpg" for i in range(6) for j in range(2)]
    expected = dict(zip(names, stored, strict=True))
    assert files(tree / "images") == expected
    assert not (tree / ".staging").exists()
    # Killed within the last part: one of its identities is written, another is unfinished.
    (tree / "manifest.json").unlink()
    (tree / "parts/part-0000002.json").unlink()
    for path in (tree / "images/0000005").iterdir():
        path.unlink()
    (tree / "images/0000005").rmdir()
    (tree / ".staging/0000005.0").mkdir(parents=True)
    (tree / ".staging/0000005.0/0000005_000.jpg").write_bytes(b"half")
    kept = (tree / "images/0000004/0000004_000.jpg").stat().st_mtime_ns
    export_images(cfg(tmp_path), run)
    assert files(tree / "images") == expected
    assert (tree / "images/0000004/0000004_000.jpg").stat().st_mtime_ns == kept
    assert sorted(path.name for path in tree.iterdir()) == [
        "images", "left_out.json", "manifest.json", "parts", "spec.json"
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="layout: 'usynthface', now 'insightface'"):
        export_images(cfg(tmp_path, "export_images.layout=insightface"), run)


def test_records_as_rec2image_names_them(tmp_path):
    faces = [(4, [b"\xff\xd8a", b"\xff\xd8bb"]), (70, [b"\xff\xd8ccc"]), (2, [b"\xff\xd8d", b"\xff\xd8e"])]
    recs = [tmp_path / name / "train.rec" for name in ("one", "two")]
    for rec in recs:
        rec.parent.mkdir()
        write_recordio(rec, rec.with_suffix(".idx"), faces)
    settings = cfg(
        tmp_path,
        f"export_images.input={tmp_path}/*/train.rec",
        "export_images.layout=insightface",
        "export_images.images_per_part=2",
    )
    validate(settings)
    images = open_images(settings)
    (tmp_path / "tree/parts").mkdir(parents=True)
    for part in range(len(images.sizes)):
        export_part(f"{tmp_path}/tree", "insightface", images, part)
    assert images.sizes == [2, 2, 3, 2, 1]
    assert files(tmp_path / "tree/images") == rec2image(recs)
    assert export_spec(settings, images)["images_per_part"] == 2


def test_mistakes_are_named(tmp_path):
    with pytest.raises(DatasetError, match="faces is no face dataset"):
        validate(cfg(tmp_path))
    validate(cfg(tmp_path), [f"{tmp_path}/faces"])  # an earlier stage will have written it
    with pytest.raises(SettingsError, match=r"export_images\.input: empty"):
        validate(cfg(tmp_path, "export_images.input=[]"))
    with pytest.raises(SettingsError, match=r"export_images\.input.*none\.rec: no such file"):
        validate(cfg(tmp_path, f"export_images.input={tmp_path}/none.rec"))
    write_dataset(tmp_path / "faces", identities=2, images=1)
    with pytest.raises(SettingsError, match=r"export_images\.options: they are RecordIO's"):
        validate(cfg(tmp_path, 'export_images.options={"use_index": false}'))
