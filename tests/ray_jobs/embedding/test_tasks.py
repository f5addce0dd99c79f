"""Inputs of the embed job cut into tasks."""

import os

import numpy as np
import pytest
from support.datasets import pattern, write_dataset
from support.listing import accounted, random_tree

from facelib.config import load_settings
from facelib.data import DatasetError, ImageSpec, encode_image
from ray_jobs.embedding.tasks import list_input
from ray_jobs.errors import JobError

SPEC = ImageSpec(template="arcface", size=112)


def cfg(*overrides):
    return load_settings(None, list(overrides)).embed


def test_a_folder_in_the_order_of_its_names(tmp_path):
    for name in ("b.jpg", "a.JPG", "notes.txt", "c.png"):
        (tmp_path / name).write_bytes(encode_image(pattern(0, 0)))
    found = list_input(cfg("embed.images_per_part=2", "embed.images_per_task=1"), str(tmp_path), SPEC)
    assert [(t.part, t.number, t.files) for t in found.tasks] == [
        (0, 0, ["a.JPG"]),
        (0, 1, ["b.jpg"]),
        (1, 0, ["c.png"]),
    ]
    (tmp_path / "d.jpg").write_bytes(b"")
    assert list_input(cfg(), str(tmp_path), SPEC).listing != found.listing


def test_links_that_lead_back_and_names_that_are_not_utf8(tmp_path):
    """Each image once (scandir 42: a link to ".." made 40 of one), and a name that is not UTF-8 costs its images only
    (internetarchive 284)."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/1.jpg").write_bytes(b"x")
    for link in ("loop", "loop2"):
        os.symlink("..", tmp_path / "a" / link)
    bad = os.path.join(os.fsencode(tmp_path), b"lat\xe9")
    os.mkdir(bad)
    with open(os.path.join(bad, b"x.jpg"), "wb") as file:
        file.write(b"x")
    found = list_input(cfg(), str(tmp_path), SPEC)
    assert [t.files for t in found.tasks] == [["a/1.jpg"]]
    assert [(s.reason, s.place) for s in found.left_out] == [
        ("link_within_folder", "a/loop"), ("link_within_folder", "a/loop2"), ("name_not_utf8", "lat\\xe9/x.jpg"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_listed_and_left_out_are_what_is_there(tmp_path, seed):
    random_tree(tmp_path / "in", np.random.default_rng(seed))
    (tmp_path / "in/0.jpg").write_bytes(b"x")
    found = list_input(cfg(), str(tmp_path / "in"), SPEC)
    files = [name for task in found.tasks for name in task.files]
    accounted(tmp_path / "in", files, [s.place for s in found.left_out])


def test_a_dataset_by_row_groups(tmp_path):
    dataset = write_dataset(tmp_path / "faces", identities=12, images=2, per_part=8, per_group=2)
    tasks = list_input(cfg("embed.images_per_task=8"), dataset.folder.uri, SPEC).tasks
    assert [(t.part, t.number, t.row_groups, t.images) for t in tasks] == [
        (0, 0, [0, 1], 8), (0, 1, [2, 3], 8), (1, 0, [0, 1], 8),
    ]  # fmt: skip
    with pytest.raises(DatasetError, match="96 against 112"):
        list_input(cfg(), dataset.folder.uri, ImageSpec(template="arcface", size=96))


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(JobError, match="not a face dataset and contains no images"):
        list_input(cfg(), str(tmp_path), SPEC)
