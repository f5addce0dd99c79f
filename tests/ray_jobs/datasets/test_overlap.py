"""Evaluation sets whose identities an import leaves out."""

import pytest
from support.datasets import pattern, write_dataset

from facelib.data import DatasetError, ImageSpec, encode_image
from facelib.sources import write_bin
from ray_jobs.datasets.overlap import overlap_set_hash, read_overlap_set
from ray_jobs.errors import JobError

SPEC = ImageSpec(template="arcface", size=112)


def test_images_of_bins_and_datasets(tmp_path):
    for name in ("a", "b"):
        write_bin(tmp_path / f"{name}.bin", [encode_image(pattern(i, 0)) for i in range(4)], [True, False])
    assert len(read_overlap_set(f"{tmp_path}/a.bin+{tmp_path}/b.bin", SPEC)) == 8
    dataset = write_dataset(tmp_path / "faces", identities=6, images=2)
    assert len(read_overlap_set(dataset.folder.uri, SPEC)) == 12
    first, second = overlap_set_hash(f"{tmp_path}/a.bin+{tmp_path}/b.bin").split("+")
    assert first == second
    assert len(overlap_set_hash(dataset.folder.uri)) == 32


def test_another_image_spec_is_refused(tmp_path):
    write_bin(tmp_path / "small.bin", [encode_image(pattern(0, 0, 96))] * 2, [True])
    with pytest.raises(JobError, match=r"small\.bin has faces of 96 pixels, but align\.size is 112"):
        read_overlap_set(f"{tmp_path}/small.bin", SPEC)
    write_dataset(tmp_path / "shifted", identities=2, images=1, template="arcface-96")
    with pytest.raises(DatasetError, match="arcface-96"):
        read_overlap_set(f"{tmp_path}/shifted", SPEC)
