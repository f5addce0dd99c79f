"""The trainer's input from images as they are stored: the same as from the reading tasks."""

import io
import threading

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from support.commands import CEILING_S
from support.datasets import write_dataset
from support.fake_cuda import StepWatch, fake_cuda

from facelib.config import AugmentSettings, DataSettings
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.device_prefetch import DevicePrefetcher, decode_by_torchvision, encoded_images, run_ahead
from ray_jobs.training.faces import StoredFaces
from ray_jobs.training.loader import EncodedBatch, LoaderSpec, load_batches, read_window, rebatch
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec

CPU = torch.device("cpu")
EVERYTHING = dict.fromkeys(
    ("grayscale", "shift_scale", "color_jitter", "gamma", "blur", "low_resolution", "noise", "cutout"), 0.5
)
AUGMENTATION = AugmentationSpec(AugmentSettings(strength_start=0.3, options=EVERYTHING), total_steps=20)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    write_dataset(folder, identities=18, images=3, per_part=8, per_group=4)
    return StoredFaces(str(folder))


def batches(faces, sampling, augmentation, encoded):
    """Two epochs without Ray; windows and steps do not end together."""
    sampler = DistributedBatchSampler(faces, sampling, 5, 2, 0, 1)
    spec = LoaderSpec(sampling, 5, sampler.steps_per_pass, augmentation, encoded)
    windows = sampler.windows(0, 0, 2 * sampler.steps_per_epoch)
    return rebatch((piece for window in windows for piece in read_window(faces, window, spec)), 5)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("views", [1, 2])
def test_augmented_in_the_trainer_or_in_readers_the_input_is_the_same(faces, views, channels_last):
    sampling = SamplingSpec(views=views)

    def inputs(encoded):
        stream = batches(faces, sampling, AUGMENTATION, encoded)
        return list(DevicePrefetcher(stream, CPU, AUGMENTATION, 18, channels_last, threads=3))

    in_readers, in_trainer = inputs(False), inputs(True)
    assert len(in_readers) == len(in_trainer) == {1: 20, 2: 6}[views]
    for (expected, labels), (found, own_labels) in zip(in_readers, in_trainer, strict=True):
        assert expected.shape == (views, 5, 3, 112, 112)
        assert torch.equal(expected, found)
        assert torch.equal(labels, own_labels)
        assert found[0].is_contiguous(memory_format=torch.channels_last) == channels_last


def test_without_augmentation_images_are_as_stored(faces):
    sampling = SamplingSpec(views=1)
    plain = batches(faces, sampling, None, False)
    (found, _), *_ = DevicePrefetcher(batches(faces, sampling, None, True), CPU, AUGMENTATION, 18)
    assert torch.equal(found, torch.from_numpy(next(plain).images).transpose(0, 1))


def test_a_label_that_is_no_class_is_refused(faces):
    stream = batches(faces, SamplingSpec(views=1), None, True)
    with pytest.raises(ValueError, match="label"):
        list(DevicePrefetcher(stream, CPU, AUGMENTATION, 10))


def test_encoded_batches_come_by_ray_too(faces, ray_cluster):
    sampler = DistributedBatchSampler(faces, SamplingSpec(views=2), 5, 2, 0, 1)
    data = DataSettings(readers=1, cpus_per_reader=0.1)
    found = list(load_batches(faces, sampler, 0, 0, 4, data, AUGMENTATION, encoded=True))
    expected = list(batches(faces, SamplingSpec(views=2), AUGMENTATION, True))[:4]
    assert len(found) == 4
    for one, two in zip(found, expected, strict=True):
        assert isinstance(one, EncodedBatch)
        assert one.strength == two.strength
        for name in ("data", "sizes", "draws", "labels"):
            assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_on_a_gpu_the_host_waits_for_nothing(faces):
    batch = next(batches(faces, SamplingSpec(views=2), AugmentationSpec(AugmentSettings(), 20), True))
    prefetcher = DevicePrefetcher(iter([]), torch.device("cuda"), AugmentationSpec(AugmentSettings(), 20), 18)
    with fake_cuda():
        decoded = torch.empty(10, 3, 112, 112, dtype=torch.uint8, device="cuda")
        with StepWatch():
            augmented = prefetcher.augmented(decoded, batch)
    assert (augmented.shape, augmented.device.type) == ((10, 3, 112, 112), "cuda")


def test_torchvision_decodes_the_same_images(faces):
    """On the CPU its pixels are ours; what nvJPEG cannot take is decoded by us, in its place."""
    batch = next(batches(faces, SamplingSpec(views=2), None, True))
    prefetcher = DevicePrefetcher(iter([]), CPU, AugmentationSpec(AugmentSettings(), 20), 18)
    assert torch.equal(decode_by_torchvision(batch, CPU), prefetcher.decode(batch))
    images = [image.tobytes() for image in encoded_images(batch)]
    pixels = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    images[1] = cv2.imencode(".png", pixels)[1].tobytes()
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels).save(turned, "JPEG", exif=exif)
    images[4] = turned.getvalue()
    sizes = np.array([len(image) for image in images])
    mixed = batch._replace(data=np.frombuffer(b"".join(images), np.uint8), sizes=sizes)
    assert torch.equal(decode_by_torchvision(mixed, CPU), prefetcher.decode(mixed))


def test_a_thread_runs_ahead_by_so_many():
    made, allowed = [], threading.Semaphore(0)

    def items():
        for number in range(6):
            made.append(number)
            allowed.release()
            yield number

    stream = run_ahead(items(), 2)
    assert next(stream) == 0
    for _ in range(4):  # the one that was taken, two that wait, and one in the thread's hand
        assert allowed.acquire(timeout=CEILING_S)
    assert not allowed.acquire(timeout=0.2)
    assert list(stream) == [1, 2, 3, 4, 5]
    assert made == list(range(6))


def test_an_error_comes_in_its_place():
    def items():
        yield 1
        raise ValueError("broken image")

    stream = run_ahead(items(), 2)
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken image"):
        next(stream)


def test_a_stream_that_is_left_ends_its_thread():
    before = set(threading.enumerate())

    def items():
        while True:
            yield 0

    stream = run_ahead(items(), 1)
    next(stream)
    (thread,) = set(threading.enumerate()) - before
    stream.close()
    thread.join(timeout=CEILING_S)
    assert not thread.is_alive()
