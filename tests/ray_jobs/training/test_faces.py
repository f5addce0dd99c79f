import pickle
import threading

import numpy as np
import pyarrow as pa
import pytest
from support.commands import CEILING_S
from support.datasets import write_dataset

from facelib.data import DatasetError
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import LoaderSpec, read_window
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder, identities=8, images=3, per_part=4, per_group=2, first=100)
    return StoredFaces(str(folder))


def window(faces):
    return next(DistributedBatchSampler(faces, SamplingSpec(views=1), 4, 2, 0, 1).windows(0, 0, 6))


def test_labels_are_class_numbers_in_the_order_of_the_dataset(faces):
    chosen = window(faces)
    images, labels = faces.read(chosen, SamplingSpec(views=1))
    expected = np.concatenate([np.repeat(np.arange(g.first_class, g.first_class + 2), 3) for g in chosen.groups])
    assert len(images) == len(labels) == 12
    assert np.array_equal(labels, expected)


def test_only_its_uri_is_pickled_and_a_process_opens_it_once(faces):
    assert len(pickle.dumps(faces)) < 500
    received = pickle.loads(pickle.dumps(faces))
    assert received.identities == 8
    assert pickle.loads(pickle.dumps(faces)) is received


def test_a_dataset_that_was_written_again_is_refused(tmp_path):
    write_dataset(tmp_path, identities=8, images=3)
    sent = pickle.dumps(StoredFaces(str(tmp_path)))
    write_dataset(tmp_path, identities=8, images=4)
    with pytest.raises(DatasetError, match="was written again since the training began"):
        pickle.loads(sent)


class CountingStorage:
    """The file system of a folder, counting what is read of parts."""

    def __init__(self, fs, at_once=1):
        self.fs, self.bytes, self.opened = fs, 0, []
        self.barrier = threading.Barrier(at_once)

    def open_input_file(self, path):
        self.opened.append(path)
        self.barrier.wait(timeout=CEILING_S)
        return pa.PythonFile(CountingFile(self, self.fs.open_input_file(path)), mode="r")


class CountingFile:
    """Without more methods than these, by which Arrow would read past the count."""

    closed = False

    def __init__(self, storage, file):
        self.storage, self.file = storage, file
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size=-1):
        data = self.file.read(size if size >= 0 else None)
        self.storage.bytes += len(data)
        return data


@pytest.mark.parametrize(("images", "epochs_per_pass"), [(12, 4), (40, 12)])
def test_at_most_twice_the_bytes_that_are_used_are_read(tmp_path, images, epochs_per_pass):
    """Without `epochs_per_pass`, a pair of each identity: six and twenty times."""
    write_dataset(tmp_path, identities=8, images=images, per_part=8, per_group=4)
    faces = StoredFaces(str(tmp_path))
    storage = faces.dataset.folder.fs = CountingStorage(faces.dataset.folder.fs)
    sampling = SamplingSpec(views=2, epochs_per_pass=epochs_per_pass)
    sampler = DistributedBatchSampler(faces, sampling, 4, 1, 0, 1)
    (first, _) = sampler.windows(0, 0, sampler.steps_per_pass)
    pieces = list(read_window(faces, first, LoaderSpec(sampling, 4, sampler.steps_per_pass)))
    pairs = np.concatenate([piece.images for piece in pieces]).reshape(-1, 3 * 112 * 112)
    assert len(pairs) == 2 * 4 * epochs_per_pass
    used = len(np.unique(pairs, axis=0)) / (4 * images)  # share of the row group's images
    storage.bytes = 0  # the first read has the part's footer too
    encoded, _ = faces.read(first, sampling)
    assert storage.bytes <= 2 * used * encoded.nbytes
    one = len(np.unique(pairs[: 2 * 4], axis=0)) / (4 * images)
    assert storage.bytes > 5 * one * encoded.nbytes


def test_row_groups_are_fetched_at_the_same_time(faces):
    chosen = window(faces)
    original = faces.dataset.folder.fs
    storage = faces.dataset.folder.fs = CountingStorage(original, at_once=len(chosen.groups))
    try:  # Each waits until all of them are open.
        faces.read(chosen, SamplingSpec(views=1))
    finally:
        faces.dataset.folder.fs = original
    assert len(storage.opened) == len(chosen.groups) > 1


def test_a_footer_is_read_once(tmp_path):
    write_dataset(tmp_path, identities=8, images=3, per_part=8, per_group=4)
    faces = StoredFaces(str(tmp_path))
    storage = faces.dataset.folder.fs = CountingStorage(faces.dataset.folder.fs)
    counts = []
    for _ in range(2):
        storage.bytes = 0
        faces.dataset.read_row_groups(faces.dataset.manifest.parts[0].name, [0], ["identity"])
        counts.append(storage.bytes)
    assert counts[1] < counts[0] / 5


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match=str(tmp_path)):
        StoredFaces(str(tmp_path))


@pytest.mark.parametrize("identities", [0, 1, 3, 4, 7, 8])
@pytest.mark.parametrize("images", [0, 1, 2, 3, 9])
def test_limits_are_the_first_identities_and_images(tmp_path, identities, images):
    """100K, 200K and 400K identities are one dataset."""
    write_dataset(tmp_path, identities=8, images=3, per_part=4, per_group=2, first=100)
    faces = pickle.loads(pickle.dumps(StoredFaces(str(tmp_path), identities=identities, images=images)))
    assert faces.identities == (identities or 8)
    groups = faces.row_groups()
    assert sum(group[2] for group in groups) == faces.identities
    assert sum(group[3] for group in groups) == faces.identities * min(images or 3, 3)
    sampler = DistributedBatchSampler(faces, SamplingSpec(views=1), 1, len(groups), 0, 1)
    (chosen,) = sampler.windows(0, 0, sampler.steps_per_epoch)
    encoded, labels = faces.read(chosen, SamplingSpec(views=1))
    assert sorted(labels.tolist()) == sorted(list(range(faces.identities)) * min(images or 3, 3))
    everything = faces.dataset.read_row_groups
    for group in chosen.groups:
        table = everything(group.part, [group.index], ["image", "identity", "index"])
        wanted = [
            row["image"]
            for row in table.to_pylist()
            if row["identity"] - 100 < faces.identities and row["index"] < (images or 3)
        ]
        mine = (labels >= group.first_class) & (labels < group.first_class + group.identities)
        assert encoded.filter(pa.array(mine)).to_pylist() == wanted


def test_more_identities_than_there_are_are_refused(tmp_path):
    write_dataset(tmp_path, identities=8, images=3)
    with pytest.raises(DatasetError, match=r"data\.identities: 9, but .* has only 8"):
        StoredFaces(str(tmp_path), identities=9)
