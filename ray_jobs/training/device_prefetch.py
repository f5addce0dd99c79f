"""From the loader's batches to images on the trainer's device, ahead of the training step.

On a GPU a thread decodes the next batches with several others into pinned memory, and a side stream copies and augments
them while the step runs on the trainer's own stream: the step finds its images on the device.

Shapes: V views of a sample, N samples of a rank's batch, H rows and W columns of an image.
"""

import contextlib
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from facelib.data import decode_images
from facelib.losses.margins import check_labels
from facelib.utils.devices import to_device
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.loader import Batch, EncodedBatch

BATCHES_AHEAD = 2  # on the device, beside the one that is trained on
DECODED_AT_ONCE = 16  # images that a decoding thread takes: few enough that all threads end together

Inputs = tuple[torch.Tensor, torch.Tensor]  # images uint8 [V, N, 3, H, W] and labels [N] on the device


class DevicePrefetcher:
    """Iterates over images and labels; on a GPU some batches ahead, on a CPU each when it is asked for.

    Args:
        batches: the loader's, decoded and augmented or neither.
        augmentation: of batches that are not augmented yet.
        classes: labels are below it; None for a method that uses no labels, whose faces may have any.
        threads: that decode.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        device: torch.device,
        augmentation: AugmentationSpec,
        classes: int | None,
        channels_last: bool = False,
        threads: int = 1,
    ) -> None:
        self.batches, self.device, self.channels_last = batches, device, channels_last
        self.augment, self.classes = augmentation.build(), classes
        self.nvjpeg = augmentation.settings.decoder == "nvjpeg" and device.type == "cuda"
        self.pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def __iter__(self) -> Iterator[Inputs]:
        if self.device.type != "cuda":
            yield from map(self.to_device, self.batches)
            return
        for inputs, copied in run_ahead(self._on_side_stream(), BATCHES_AHEAD):
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(copied)
            for tensor in inputs:
                tensor.record_stream(stream)  # its memory belongs to the side stream
            yield inputs

    def _on_side_stream(self) -> Iterator[tuple[Inputs, torch.cuda.Event]]:
        """Inputs, and the event after which they may be used."""
        stream = torch.cuda.Stream(self.device)
        for batch in self.batches:
            with torch.cuda.stream(stream):
                inputs = self.to_device(batch)
            yield inputs, stream.record_event()

    def to_device(self, batch: Batch | EncodedBatch) -> Inputs:
        """Images uint8 [V, N, 3, H, W] and labels [N] of a batch."""
        if self.classes is not None:
            check_labels(batch.labels, self.classes)  # on a GPU nothing can be checked without waiting for it
        labels = to_device(torch.from_numpy(batch.labels.copy()), self.device)
        if isinstance(batch, Batch):
            images = to_device(torch.from_numpy(batch.images.copy()), self.device)
        else:
            decoded = decode_by_torchvision(batch, self.device) if self.nvjpeg else self.decode(batch)
            images = self.augmented(to_device(decoded, self.device), batch).unflatten(0, (len(labels), -1))
        samples, views = images.shape[:2]
        stacked = images.transpose(0, 1).flatten(0, 1)  # [V·N, 3, H, W]
        if self.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        return stacked.unflatten(0, (views, samples)), labels

    def augmented(self, decoded: torch.Tensor, batch: EncodedBatch) -> torch.Tensor:
        """Augmented images uint8 [N·V, 3, H, W] of a batch's pixels, of the same shape and on the same device."""
        if not batch.draws.shape[1]:
            return decoded
        self.augment.strength = batch.strength
        return self.augment.transform(decoded, batch.draws)

    def decode(self, batch: EncodedBatch) -> torch.Tensor:
        """uint8 [N·V, 3, H, W], in pinned memory for a GPU."""
        images = encoded_images(batch)
        shape = (len(images), *decode_images([images[0].tobytes()]).shape[1:])
        decoded = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target = decoded.numpy()

        def fill(begin: int) -> None:
            part = slice(begin, begin + DECODED_AT_ONCE)
            decode_images([data.tobytes() for data in images[part]], target[part])

        list(self.pool.map(fill, range(0, len(images), DECODED_AT_ONCE)))
        return decoded


def encoded_images(batch: EncodedBatch) -> list[np.ndarray]:
    """The bytes of each image, uint8, without a copy."""
    ends = np.cumsum(batch.sizes)
    return [batch.data[end - size : end] for end, size in zip(ends.tolist(), batch.sizes.tolist(), strict=True)]


def decode_by_torchvision(batch: EncodedBatch, device: torch.device) -> torch.Tensor:
    """uint8 [N·V, 3, H, W] on the device, by nvJPEG on a GPU, whose pixels may differ from the CPU's.

    Images that are not JPEG, and those with EXIF data, which may say that they are to be turned, are decoded on the
    CPU.
    """
    from torchvision.io import ImageReadMode, decode_jpeg

    images = encoded_images(batch)
    plain = [data[:2].tobytes() == b"\xff\xd8" and b"Exif" not in data[:32].tobytes() for data in images]
    jpegs = [torch.from_numpy(data.copy()) for data, is_plain in zip(images, plain, strict=True) if is_plain]
    decoded = iter(decode_jpeg(jpegs, ImageReadMode.RGB, device) if jpegs else [])
    rest = (decode_images([data.tobytes()])[0] for data, is_plain in zip(images, plain, strict=True) if not is_plain)
    return torch.stack(
        [next(decoded) if is_plain else to_device(torch.from_numpy(next(rest)), device) for is_plain in plain]
    )


def run_ahead(items: Iterator[Any], count: int) -> Iterator[Any]:
    """The same items, of which a thread prepares up to `count` ahead. Its errors are raised here, in their place."""
    ready: queue.Queue[Any] = queue.Queue(count)
    closed = threading.Event()

    def put(kind: str, item: Any = None) -> None:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                return ready.put((kind, item), timeout=1)

    def fill() -> None:
        try:
            for item in items:
                put("item", item)
                if closed.is_set():
                    return
            put("end")
        except BaseException as error:
            put("error", error)

    thread = threading.Thread(target=fill, daemon=True, name="prefetch")
    thread.start()
    try:
        while True:
            kind, item = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise item
            yield item
    finally:
        closed.set()
