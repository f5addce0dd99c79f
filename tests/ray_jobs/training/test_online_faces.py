"""Faces made while training: the same as a stored dataset's, new ones every epoch, unharmed by a restart."""

import json
import signal
import threading

import numpy as np
import psutil
import pytest
from support.commands import wait_for, workers_of
from support.datasets import write_dataset
from support.models import assert_same_weights

from facelib.config import DataSettings, SettingsError, load_settings
from facelib.data import DatasetError, FaceDataset
from ray_jobs import generate as generate_job
from ray_jobs import train_ssl as train_ssl_job
from ray_jobs import train_unpg as train_unpg_job
from ray_jobs import tune as tune_job
from ray_jobs.generate import generate, make_dataset
from ray_jobs.training.driver import train
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import LoaderSpec, load_batches, read_window
from ray_jobs.training.online_faces import FacePool, OnlineFaces, training_faces
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec

PAIRS, SINGLES = SamplingSpec(views=2), SamplingSpec(views=1)
# Every picture of these people with this seed is found, so that counts are exact.
FACES = (
    "generate.identities=6", "generate.images_per_identity=3", "generate.first_identity=40", "generate.actors=1",
    "generate.identities_per_task=2", "generate.cpus_per_actor=0.25", "align.cpus_per_actor=0.25",
    'generate.options={"image_size": 96}', "seed=4", "tracking.system_metrics=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return load_settings(None, [*FACES, "data.stream=true", f"output={tmp_path_factory.mktemp('out')}"])


@pytest.fixture(scope="module")
def pool(settings, ray_cluster):
    """Actors that make faces."""
    with FacePool.start(settings) as started:
        yield started


@pytest.fixture(scope="module")
def faces(settings, pool):
    return OnlineFaces(settings, pool)


def batches(faces, sampling, first, last):
    """Batches of two samples."""
    sampler = DistributedBatchSampler(faces, sampling, 2, 2, 3, 1)
    return list(load_batches(faces, sampler, 0, first, last, DataSettings(readers=1, cpus_per_reader=0.1)))


@pytest.mark.slow
def test_first_epoch_is_what_would_have_been_stored(settings, faces, run):
    stored = StoredFaces(make_dataset(settings, "stored", 40, 6, run).folder.uri)
    assert (faces.image_spec, faces.identities) == (stored.image_spec, stored.identities)
    for sampling in (PAIRS, SINGLES):
        window = next(DistributedBatchSampler(faces, sampling, 2, 99, 3, 1).windows(0, 0, 1))
        images, labels = faces.read(window, sampling)
        found = sorted(zip(labels.tolist(), images.to_pylist(), strict=True))
        window = next(DistributedBatchSampler(stored, sampling, 2, 99, 3, 1).windows(0, 0, 1))
        images, labels = stored.read(window, sampling)
        assert found == sorted(zip(labels.tolist(), images.to_pylist(), strict=True))


@pytest.mark.slow
def test_every_epoch_brings_new_people_for_pairs_and_new_pictures_for_classes(faces):
    epochs = [batches(faces, PAIRS, 3 * e, 3 * e + 3) for e in (0, 1, 2)]
    people = [sorted(np.concatenate([b.labels for b in epoch]).tolist()) for epoch in epochs]
    assert people == [list(range(6)), list(range(6, 12)), list(range(12, 18))]
    groups = [
        faces.chunk(g, epoch, SINGLES)
        for epoch in (0, 5)
        for g in DistributedBatchSampler(faces, SINGLES, 2, 9, 3, 1).groups
    ]
    assert [(c.first, c.first_image) for c in groups] == [(40, 0), (42, 0), (44, 0), (40, 15), (42, 15), (44, 15)]
    first, second = (batches(faces, SINGLES, 9 * e, 9 * e + 9) for e in (0, 1))
    for epoch in (first, second):
        assert np.bincount(np.concatenate([b.labels for b in epoch])).tolist() == [3] * 6
    pictures = {b.images[i].tobytes() for epoch in (first, second) for b in epoch for i in range(2)}
    assert len(pictures) == 36


@pytest.mark.slow
def test_a_resumed_stream_and_a_killed_actor_change_no_byte(faces):
    whole = batches(faces, PAIRS, 0, 5)
    killed = workers_of(psutil.Process(), "GeneratorActor")
    assert killed
    for process in killed:
        process.send_signal(signal.SIGKILL)
    rest = batches(faces, PAIRS, 2, 5)
    for a, b in zip(whole[2:], rest, strict=True):
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.labels, b.labels)


@pytest.mark.slow
def test_rejected_pictures_leave_no_gap(settings, faces):
    """A strict detector: those that are left take the places of the others."""
    window = next(DistributedBatchSampler(faces, SINGLES, 2, 99, 3, 1).windows(0, 0, 9))
    made = faces.pool.make([faces.chunk(group, 0, SINGLES) for group in window.groups])
    scores = np.concatenate([aligned.table["score"].to_numpy() for aligned in made])
    with FacePool.start(aligned_above(settings, float(np.median(scores)))) as pool:
        strict = OnlineFaces(settings, pool)
        assert 0 < len(strict.read(window, SINGLES)[1]) < 18
        pieces = list(read_window(strict, window, LoaderSpec(SINGLES, 2, 9)))
        assert [p.images.shape for p in pieces] == [(2, 1, 3, 112, 112)] * 9


def test_nothing_but_rejected_pictures_is_an_error_that_counts_them(settings, ray_cluster):
    with FacePool.start(aligned_above(settings, 1.0)) as pool:
        faces = OnlineFaces(settings, pool)
        window = next(DistributedBatchSampler(faces, PAIRS, 2, 1, 3, 1).windows(0, 0, 1))
        with pytest.raises(DatasetError, match=r"every image of 2 identities .* rejected \(low_score 6\)"):
            faces.read(window, PAIRS)


def test_a_stored_dataset_is_the_default(settings, tmp_path):
    assert isinstance(training_faces(settings), OnlineFaces)
    with pytest.raises(DatasetError, match="no face dataset"):
        training_faces(load_settings(None, [f"output={tmp_path}"]))


def test_a_limited_generator_is_refused_before_anything_starts(tmp_path):
    for identity in ("a", "b"):
        (tmp_path / identity).mkdir()
        (tmp_path / identity / "0.png").write_bytes(png())
    folder = ("generate.generator=folder", f'generate.options={{"folder": "{tmp_path}"}}', "generate.identities=2",
              "data.stream=true", "train.selection=last", "ssl.queue_size=1000", "train.batch_size=2")  # fmt: skip
    with pytest.raises(SettingsError, match=r"folder has only 2, not 80 in 40 epochs"):
        train_ssl_job.validate(load_settings(None, folder))
    with pytest.raises(SettingsError, match=r"data\.stream: generator folder has a limited number"):
        train_unpg_job.validate(load_settings(None, folder))


TRAINING = (
    "generate.identities=24", "generate.images_per_identity=2", "generate.identities_per_task=4",
    "data.window_row_groups=2", "data.readers=1", "data.cpus_per_reader=0.1", "model.name=iresnet",
    'model.options={"layers": [1, 1, 1, 1], "width": 0.25, "stem_stride": 2}', "model.embedding_size=16",
    "train.epochs=3", "train.batch_size=8", "train.precision=float32", "train.threads=1", "train.cpus_per_worker=0.5",
    "train.checkpoint_every=2", "ssl.queue_size=24", "evaluate.pairs=4",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ssl", "unpg"])
def test_later_epochs_train_on_new_faces(kind, settings, run, ray_cluster, in_process, tmp_path):
    heldout = write_dataset(tmp_path / "heldout", identities=3, images=2, first=1000).folder.uri
    streamed = [*FACES, *TRAINING, "data.stream=true", f"data.heldout={heldout}", f"output={tmp_path}"]
    train(load_settings(None, [*streamed, "train.epochs=2"]), run, kind)
    assert [h["epoch"] for h in json.loads((tmp_path / kind / "history.json").read_text())] == [1, 2]
    assert not (tmp_path / "faces").exists()


@pytest.mark.faults
def test_a_killed_trainer_continues_with_the_faces_it_would_have_seen(settings, run, ray_cluster, tmp_path):
    heldout = write_dataset(tmp_path / "heldout", identities=3, images=2, first=1000).folder.uri
    whole, killed = (
        load_settings(
            None, [*FACES, *TRAINING, "data.stream=true", f"data.heldout={heldout}", f"output={tmp_path}/{name}"]
        )
        for name in ("whole", "killed")
    )
    train(whole, run, "ssl")
    assert [h["epoch"] for h in json.loads((tmp_path / "whole/ssl/history.json").read_text())] == [1, 2, 3]
    assert not (tmp_path / "whole/faces").exists()

    states, victims = tmp_path / "killed" / "ssl" / "training", []

    def kill() -> None:
        wait_for(lambda: len(list(states.glob("checkpoint_*/state.pt"))) >= 2, what="a checkpoint inside an epoch")
        victims.extend(workers_of(psutil.Process(), "RayTrainWorker"))
        for worker in victims:
            worker.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    train(killed, run, "ssl")
    killer.join()
    assert victims
    assert_same_weights(tmp_path / "whole/ssl/model.pt", tmp_path / "killed/ssl/model.pt", 0)


@pytest.mark.slow
def test_only_held_out_faces_are_stored(settings, run, ray_cluster):
    with pytest.raises(SettingsError, match=r"nothing to do.* Set generate\.heldout_identities"):
        generate_job.validate(with_generate(settings, heldout_identities=0))
    result = generate(with_generate(settings, heldout_identities=2), run)
    assert result.written == (settings.path("heldout"),)
    assert FaceDataset(settings.path("heldout")).manifest.identities == 2


def test_a_sweep_wants_one_stored_dataset(settings):
    with pytest.raises(SettingsError, match=r"data\.stream: trials are compared on one stored dataset"):
        tune_job.validate(settings)


def aligned_above(settings, score):
    """The settings with another least score of a detection."""
    return settings.model_copy(update={"align": settings.align.model_copy(update={"min_score": score})})


def with_generate(settings, **changes):
    """The settings with another section `generate`."""
    return settings.model_copy(update={"generate": settings.generate.model_copy(update=changes)})


def png() -> bytes:
    import cv2

    return bytes(cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1])
