import pickle

import numpy as np
import pytest
from support.datasets import write_dataset

from facelib.data import DatasetError
from ray_jobs.training.faces import StoredFaces
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


def test_only_its_uri_is_pickled(faces):
    assert len(pickle.dumps(faces)) < 500
    assert pickle.loads(pickle.dumps(faces)).identities == 8


def test_a_missing_dataset_is_named(tmp_path):
    with pytest.raises(DatasetError, match=str(tmp_path)):
        StoredFaces(str(tmp_path))
