"""Inputs of the embed job cut into tasks."""

import pytest
from support.datasets import pattern, write_dataset

from facelib.config import load_settings
from facelib.data import DatasetError, ImageSpec, encode_image
from ray_jobs.embedding.tasks import input_tasks
from ray_jobs.errors import JobError

SPEC = ImageSpec(template="arcface", size=112)


def cfg(*overrides):
    return load_settings(None, list(overrides)).embed


def test_a_folder_in_the_order_of_its_names(tmp_path):
    for name in ("b.jpg", "a.JPG", "notes.txt", "c.png"):
        (tmp_path / name).write_bytes(encode_image(pattern(0, 0)))
    listing, tasks = input_tasks(cfg("embed.images_per_part=2", "embed.images_per_task=1"), str(tmp_path), SPEC)
    assert [(t.part, t.number, t.files) for t in tasks] == [(0, 0, ["a.JPG"]), (0, 1, ["b.jpg"]), (1, 0, ["c.png"])]
    (tmp_path / "d.jpg").write_bytes(b"")
    assert input_tasks(cfg(), str(tmp_path), SPEC)[0] != listing


def test_a_dataset_by_row_groups(tmp_path):
    dataset = write_dataset(tmp_path / "faces", identities=12, images=2, per_part=8, per_group=2)
    _, tasks = input_tasks(cfg("embed.images_per_task=8"), dataset.folder.uri, SPEC)
    assert [(t.part, t.number, t.row_groups, t.images) for t in tasks] == [
        (0, 0, [0, 1], 8), (0, 1, [2, 3], 8), (1, 0, [0, 1], 8),
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="96 against 112"):
        input_tasks(cfg(), dataset.folder.uri, ImageSpec(template="arcface", size=96))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(JobError, match="not a face dataset and contains no images"):
        input_tasks(cfg(), str(tmp_path), SPEC)
