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

from facelib.data import decode_image
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
        classes: labels are below it.
        threads: that decode.
    """

    def __init__(
        self,
        batches: Iterator[Any],
        device: torch.device,
        augmentation: AugmentationSpec,
        classes: int,
        channels_last: bool = False,
        threads: int = 1,
    ) -> None:
        self.batches, self.device, self.channels_last = batches, device, channels_last
        self.augment, self.classes = augmentation.build(), classes
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
        check_labels(batch.labels, self.classes)  # on a GPU nothing can be checked without waiting for it
        labels = to_device(torch.from_numpy(batch.labels.copy()), self.device)
        if isinstance(batch, Batch):
            images = to_device(torch.from_numpy(batch.images.copy()), self.device)
        else:
            images = self.augmented(to_device(self.decode(batch), self.device), batch).unflatten(0, (len(labels), -1))
        samples, views = images.shape[:2]
        stacked = images.transpose(0, 1).flatten(0, 1)  # [V·N, 3, H, W]
        if self.channels_last:
            stacked = stacked.contiguous(memory_format=torch.channels_last)
        return stacked.unflatten(0, (views, samples)), labels

    def augmented(self, decoded: torch.Tensor, batch: EncodedBatch) -> torch.Tensor:
        """Augmented images uint8 [N·V, 3, H, W] of a batch's pixels uint8 [N·V, H, W, 3], on the same device."""
        images = decoded.permute(0, 3, 1, 2).contiguous()
        if not batch.draws.shape[1]:
            return images
        self.augment.strength = batch.strength
        return self.augment.transform(images, batch.draws)

    def decode(self, batch: EncodedBatch) -> torch.Tensor:
        """uint8 [N·V, H, W, 3], in pinned memory for a GPU."""
        ends = np.cumsum(batch.sizes)

        def image(number: int) -> np.ndarray:
            return decode_image(batch.data[ends[number] - batch.sizes[number] : ends[number]].tobytes())

        first = image(0)
        decoded = torch.empty((len(ends), *first.shape), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        target = decoded.numpy()

        def fill(begin: int) -> None:
            for number in range(begin, min(begin + DECODED_AT_ONCE, len(ends))):
                target[number] = image(number)

        list(self.pool.map(fill, range(0, len(ends), DECODED_AT_ONCE)))
        return decoded


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
