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
            (window.pass_number, window.position + i)
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


def test_one_image_an_identity_gives_both_views():
    """USynthFace's disco_HF: augmentation is all that differs between query and key."""
    rows = draw_rows(np.arange(9), SamplingSpec(views=2), np.random.default_rng(0))
    assert np.array_equal(rows[:, 0], rows[:, 1])
    assert sorted(rows[:, 0].tolist()) == list(range(9))


def test_a_pass_of_several_epochs_visits_every_identity_once_and_leaves_the_epochs_length():
    groups = [(4, 40)] * 6
    every = DistributedBatchSampler(faces(*groups), SamplingSpec(views=2), 4, 2, 0, 1)
    third = DistributedBatchSampler(faces(*groups), SamplingSpec(views=2, epochs_per_pass=3), 4, 2, 0, 1)
    assert every.steps_per_epoch == third.steps_per_epoch == 6
    windows = list(third.windows(0, 0, 18))
    assert {window.pass_number for window in windows} == {0}
    assert sorted(group.index for window in windows for group in window.groups) == list(range(6))
    assert sum(window.stop - window.start for window in windows) == 18 * 4
    assert {window.pass_number for window in third.windows(0, 18, 36)} == {1}
    # An epoch is a third of the pass: it ends within a window, and the next one continues there.
    assert [(w.position + w.start, w.position + w.stop) for w in third.windows(0, 5, 7)] == [(20, 24), (24, 28)]


def test_pairs_of_a_visit_use_different_images_and_are_spread_over_the_window():
    labels = np.repeat(np.arange(20), np.r_[1, 2, 3, np.full(17, 12)])
    sampling = SamplingSpec(views=2, per_identity=2, epochs_per_pass=3)
    rows = draw_rows(labels, sampling, np.random.default_rng(0))
    assert rows.shape == (20 * 6, 2)
    drawn = labels[rows[:, 0]]
    assert np.array_equal(drawn, labels[rows[:, 1]])
    for number in range(6):  # every round has every identity once
        assert sorted(drawn[number * 20 : (number + 1) * 20]) == list(range(20))
    assert not np.array_equal(drawn[:20], drawn[20:40])
    for identity in range(20):
        images, own = np.flatnonzero(labels == identity), rows[drawn == identity]
        assert (len(images) == 1) == bool((own[:, 0] == own[:, 1]).any())
        assert len(set(own.ravel())) == min(len(images) // 2 * 2, 12) or len(images) < 12
    assert np.array_equal(rows, draw_rows(labels, sampling, np.random.default_rng(0)))


def test_a_dataset_too_small_for_a_batch_is_refused():
    with pytest.raises(DatasetError, match=r"faces: 6 samples .* train\.batch_size=64"):
        DistributedBatchSampler(faces((2, 6)), SamplingSpec(views=1), 64, 1, 0, 1)
