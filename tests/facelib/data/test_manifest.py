import numpy as np
import pytest
from support.datasets import write_dataset

from facelib.data import MANIFEST_NAME, Face, Folder, Manifest, faces_to_table, read_part_info, write_part
from facelib.data.errors import DatasetError


def test_parts_are_the_same_bytes_each_time(tmp_path):
    first, second = write_dataset(tmp_path / "a"), write_dataset(tmp_path / "b")
    assert [p.sha256 for p in first.manifest.parts] == [p.sha256 for p in second.manifest.parts]
    assert (tmp_path / "a" / MANIFEST_NAME).read_bytes() == (tmp_path / "b" / MANIFEST_NAME).read_bytes()


def test_identities_out_of_order_are_refused(tmp_path):
    zeros = np.zeros((5, 2), np.float32)
    faces = [Face(b"x", i, 0, 1.0, zeros, np.zeros(0, np.float32), "t") for i in (2, 1)]
    with pytest.raises(ValueError, match="ascend"):
        write_part(Folder(str(tmp_path)), "part-0000000.parquet", faces_to_table(faces), 2, {}, "h")


def test_counts_add_up(tmp_path):
    manifest = write_dataset(tmp_path, identities=5, images=3, per_part=2).manifest
    assert manifest.counts["aligned"] == manifest.images == sum(part.rows for part in manifest.parts) == 15
    rejected = sum(number for name, number in manifest.counts.items() if name.startswith("rejected:"))
    assert manifest.counts["requested"] == manifest.images + rejected


def test_a_part_of_other_settings_is_refused(tmp_path):
    dataset = write_dataset(tmp_path)
    with pytest.raises(DatasetError, match="made with other settings"):
        read_part_info(dataset.folder, dataset.manifest.parts[0].name, "another fingerprint")


def test_names_of_older_manifests_are_read(tmp_path):
    tree = write_dataset(tmp_path).manifest.model_dump()
    spec = dict(tree["image_spec"])
    older = {key: value for key, value in tree.items() if key not in ("image_spec", "spec")}
    older |= {"contract": {"colour": spec.pop("color"), **spec}, "plan": tree["spec"]}
    assert Manifest.model_validate(older).model_dump() == tree
