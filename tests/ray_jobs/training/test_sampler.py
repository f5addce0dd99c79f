"""The order of samples without reading a face."""

from types import SimpleNamespace

import numpy as np
import pytest

from facelib.data import DatasetError
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec, draw_rows


def faces(*groups):
    """Faces whose row groups have these (identities, rows)."""
    return SimpleNamespace(uri="faces", row_groups=lambda: [("part", i, *group) for i, group in enumerate(groups)])


def test_an_epoch_covers_every_row_group_once():
    sampler = DistributedBatchSampler(faces((2, 6), (2, 6), (2, 6)), SamplingSpec(views=1), 3, 2, 0, 1)
    assert (sampler.classes, sampler.samples, sampler.steps_per_epoch) == (6, 18, 6)
    windows = list(sampler.windows(0, 0, 6))
    assert sorted(group.index for window in windows for group in window.groups) == [0, 1, 2]
    assert sum(window.stop - window.start for window in windows) == 18


@pytest.mark.parametrize("first", [1, 4, 7])
def test_a_resumed_run_seeks(first):
    sampler = DistributedBatchSampler(faces((2, 6), (2, 6), (2, 6)), SamplingSpec(views=1), 3, 1, 0, 1)

    def samples(begin):
        return [
            (window.epoch, window.position + i)
            for window in sampler.windows(0, begin, 9)
            for i in range(window.start, window.stop)
        ]

    assert samples(first) == samples(0)[3 * first :]


def test_pairs_count_identities_and_images_count_rows():
    group = DistributedBatchSampler(faces((4, 12)), SamplingSpec(views=1), 1, 1, 0, 1).groups[0]
    assert SamplingSpec(views=2, per_identity=3).samples(group) == 12
    assert SamplingSpec(views=1).samples(group) == 12


def test_pairs_are_drawn_within_an_identity():
    labels = np.repeat([5, 6, 7], [1, 2, 9])
    rows = draw_rows(labels, SamplingSpec(views=2, per_identity=50), np.random.default_rng(0))
    assert rows.shape == (150, 2)
    assert np.array_equal(labels[rows[:, 0]], labels[rows[:, 1]])
    different = rows[:, 0] != rows[:, 1]
    assert np.array_equal(different, labels[rows[:, 0]] != 5)  # an identity with one image gives it twice


def test_a_dataset_too_small_for_a_batch_is_refused():
    with pytest.raises(DatasetError, match=r"faces: 6 samples .* train\.batch_size=64"):
        DistributedBatchSampler(faces((2, 6)), SamplingSpec(views=1), 64, 1, 0, 1)
