import time
from dataclasses import replace

import numpy as np
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from support.commands import CEILING_S
from support.datasets import pattern, write_dataset

from facelib.config import AugmentSettings, DataSettings
from facelib.data import DatasetError
from ray_jobs.training import loader
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import Batch, LoaderSpec, load_batches, read_window, rebatch
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec


def sampler_of(faces, sampling, batch_size=4, window=2, world=1, seed=0):
    return DistributedBatchSampler(faces, sampling, batch_size, window, seed, world)


def batches(faces, sampler, rank=0, first=0, last=None, augmentation=None):
    """Batches without Ray: the windows read one after the other."""
    last = sampler.steps_per_epoch if last is None else last
    spec = LoaderSpec(sampler.sampling, sampler.batch_size, sampler.steps_per_pass, augmentation)
    pieces = (piece for window in sampler.windows(rank, first, last) for piece in read_window(faces, window, spec))
    return list(rebatch(pieces, sampler.batch_size))


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder, identities=18, images=3, per_part=8, per_group=4, first=100)
    return StoredFaces(str(folder))


def test_an_epoch_of_images_holds_each_once(faces):
    sampler = sampler_of(faces, SamplingSpec(views=1), batch_size=6)
    found = batches(faces, sampler)
    assert sampler.classes == 18
    assert len(found) == sampler.steps_per_epoch == 9
    assert all(b.images.shape == (6, 1, 3, 112, 112) for b in found)
    labels = np.concatenate([b.labels for b in found])
    assert np.bincount(labels).tolist() == [3] * 18
    # The label is the number of the identity: the picture must be that identity's.
    image, label = found[0].images[0, 0].transpose(1, 2, 0).astype(int), int(found[0].labels[0])
    errors = [np.abs(image - pattern(100 + label, j)).mean() for j in range(3)]
    assert min(errors) < 4


def test_pairs_are_two_different_images_of_one_identity(faces):
    sampler = sampler_of(faces, SamplingSpec(views=2, per_identity=2), batch_size=6)
    for batch in batches(faces, sampler):
        for views, label in zip(batch.images, batch.labels, strict=True):
            nearest = [
                int(
                    np.argmin(
                        [np.abs(view.transpose(1, 2, 0).astype(int) - pattern(100 + label, j)).mean() for j in range(3)]
                    )
                )
                for view in views
            ]
            assert nearest[0] != nearest[1]


def test_an_identity_with_one_image_gives_both_views(tmp_path):
    write_dataset(tmp_path, identities=8, images=1)
    faces = StoredFaces(str(tmp_path))
    for batch in batches(faces, sampler_of(faces, SamplingSpec(views=2))):
        assert np.array_equal(batch.images[:, 0], batch.images[:, 1])


def test_ranks_share_an_epoch_without_overlap(faces):
    sampler = sampler_of(faces, SamplingSpec(views=2), batch_size=3, world=2, window=1)
    seen = [np.concatenate([b.labels for b in batches(faces, sampler, rank)]) for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 9
    assert not set(seen[0]) & set(seen[1])
    # Row groups hold 4, 4, 4, 4, 2 identities: the rank with the small share starts it again for the last few.
    assert sorted(len(set(labels)) for labels in seen) == [6, 9]


def test_epochs_differ_and_seeds_repeat(faces):
    sampler = sampler_of(faces, SamplingSpec(views=2))
    steps = sampler.steps_per_epoch
    first, second = batches(faces, sampler), batches(faces, sampler, 0, steps, 2 * steps)
    again = batches(faces, sampler_of(faces, SamplingSpec(views=2)))
    assert all(np.array_equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.labels, b.labels) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("epochs_per_pass", [1, 3])
@pytest.mark.parametrize("start", [1, 3, 4, 5, 8])
def test_a_resumed_stream_continues_where_it_was(faces, start, epochs_per_pass):
    sampler = sampler_of(faces, SamplingSpec(views=2, epochs_per_pass=epochs_per_pass), batch_size=4)
    whole, rest = batches(faces, sampler, 0, 0, 10), batches(faces, sampler, 0, start, 10)
    assert len(rest) == 10 - start
    for a, b in zip(whole[start:], rest, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize("start", [1, 4, 5])
def test_augmentation_is_the_same_wherever_a_run_resumed(faces, start):
    sampler = sampler_of(faces, SamplingSpec(views=2), batch_size=4)
    augmentation = AugmentationSpec(AugmentSettings(strength=0.8, strength_start=0.2), total_steps=10)
    plain = batches(faces, sampler, 0, 0, 10)
    whole = batches(faces, sampler, 0, 0, 10, augmentation)
    rest = batches(faces, sampler, 0, start, 10, augmentation)
    assert all(np.array_equal(a.images, b.images) for a, b in zip(whole[start:], rest, strict=True))
    assert not any(np.array_equal(a.images, b.images) for a, b in zip(whole, plain, strict=True))


def test_augmentation_strength_ramps_from_start_to_end():
    ramp = AugmentationSpec(AugmentSettings(strength=0.9, strength_start=0.3), total_steps=10)
    assert [ramp.strength(step) for step in (0, 5, 10)] == pytest.approx([0.3, 0.6, 0.9])
    assert AugmentationSpec(AugmentSettings(strength=0.7), total_steps=10).strength(0) == 0.7


def test_a_dataset_too_small_for_a_batch_is_refused(faces):
    with pytest.raises(DatasetError, match=r"18 samples .* train\.batch_size=64"):
        sampler_of(faces, SamplingSpec(views=2), batch_size=64)


def test_rebatch_joins_the_pieces_of_a_step():
    pieces = [Batch(np.full((n, 1), i), np.full(n, i)) for i, n in enumerate((4, 3, 1, 2, 1, 1))]
    out = list(rebatch(iter(pieces), 4))
    assert [b.labels.tolist() for b in out] == [[0] * 4, [1, 1, 1, 2], [3, 3, 4, 5]]
    assert all(np.array_equal(b.images[:, 0], b.labels) for b in out)
    assert out[0] is pieces[0]  # nothing is copied


def assert_equal_batches(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.labels, b.labels)


def test_ray_delivers_the_planned_batches(faces, ray_cluster):
    sampler = sampler_of(faces, SamplingSpec(views=2), batch_size=4)
    found = list(load_batches(faces, sampler, 0, 1, 9, DataSettings(readers=2)))
    assert_equal_batches(found, batches(faces, sampler, 0, 1, 9))


def test_without_free_cpus_the_trainers_node_reads(faces, ray_cluster, monkeypatch, caplog):
    """As on a cluster that lost the nodes that were not full of trainers."""
    monkeypatch.setattr(loader, "START_TIMEOUT_S", 0.5)
    monkeypatch.setattr(loader, "DEGRADED_TIMEOUT_S", 0.2)
    sampler = sampler_of(faces, SamplingSpec(views=2), batch_size=4)
    all_cpus = placement_group([{"CPU": ray.cluster_resources()["CPU"]}])
    ray.get(all_cpus.ready())
    try:
        loaded = list(load_batches(faces, sampler, 0, 1, 9, DataSettings(readers=2)))
    finally:
        remove_placement_group(all_cpus)
    assert_equal_batches(loaded, batches(faces, sampler, 0, 1, 9))
    (message,) = [record.getMessage() for record in caplog.records if record.name == loader.__name__]
    assert message.startswith("no reading task started for 0.5 s (data.cpus_per_reader=0.25): reading on the trainer")


@pytest.mark.parametrize("stall_timeout", [60.0, 1.0])
def test_a_slow_task_is_waited_for_and_a_stalled_one_replaced(stall_timeout, faces, ray_cluster, monkeypatch, caplog):
    """Its disk takes 3 s on any node; the trainer waits without limit for the task on its own node."""
    from slow_faces import SlowFaces

    monkeypatch.setattr(SlowFaces, "stall_timeout", stall_timeout)
    sampler = sampler_of(faces, SamplingSpec(views=2), batch_size=4)
    loaded = list(load_batches(SlowFaces(faces.uri), sampler, 0, 0, 3, DataSettings(readers=1)))
    assert_equal_batches(loaded, batches(faces, sampler, 0, 0, 3))
    messages = [record.getMessage() for record in caplog.records if record.name == loader.__name__]
    if stall_timeout == 1.0:
        assert messages[0].startswith("a reading task has sent nothing for 1 s")
    else:
        assert not messages


def test_readers_work_side_by_side(faces, ray_cluster, tmp_path):
    """Whole windows are ready while the first one is consumed; tasks that wait for each other would stop before."""
    from slow_augmentation import SlowAugmentation

    sampler = sampler_of(faces, SamplingSpec(views=1), batch_size=2, window=1)  # windows of 12 and one of 6 images
    slow = SlowAugmentation(AugmentSettings(), 100, str(tmp_path), 0.01)
    data = DataSettings(readers=3, cpus_per_reader=0.1)
    stream = load_batches(faces, sampler, 0, 0, sampler.steps_per_epoch, data, slow)
    next(stream)
    windows = list(sampler.windows(0, 0, sampler.steps_per_epoch))[: data.readers + 1]
    expected = sum(window.stop - window.start for window in windows) // 2
    deadline = time.monotonic() + CEILING_S
    while len(list(tmp_path.iterdir())) < expected and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list(tmp_path.iterdir())) == expected


def test_a_buffer_can_be_bounded(faces, monkeypatch):
    spec = LoaderSpec(SamplingSpec(views=1), 2, 27)
    (window, *_) = sampler_of(faces, spec.sampling, batch_size=2, window=3).windows(0, 0, 27)
    whole = (window.stop - window.start) // 2

    def objects(data, spec=spec):
        return loader.PrefetchLoader(faces, spec, data)._buffered_objects(window)

    assert objects(DataSettings()) >= whole + 1
    assert objects(DataSettings(read_ahead=4)) == 4
    monkeypatch.setattr(loader, "MAX_BUFFER_BYTES", 5 * spec.batch_size * 3 * 112**2)
    assert objects(DataSettings()) == 5
    assert objects(DataSettings(), replace(spec, encoded=True)) > 5
