"""Ray tasks that read, decode and augment ahead of a trainer, wherever the cluster has CPUs for them.

Streaming tasks, not a Ray Data pipeline: its scheduler would run in the trainer's process, and under back-pressure it
polls without a pause, holding the interpreter lock for half of the time (steps were 2.5 times slower).

Readers reserve CPUs apart from the trainers, so a cluster that lost nodes may hold trainers and have nothing left for
readers, for as long as nobody brings a node back. A reader therefore says where it has begun before it reads. Where
nobody says so, or the node is gone (the reader waits for a CPU to begin again), or nothing follows (its storage does
not answer), a trainer has the rest of the window read on its own node without a reservation: slower, but it goes on.
"""

import collections
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facelib.augmentation import FaceAugmentation
from facelib.config import AugmentSettings, DataSettings
from facelib.data import decode_image
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.optim import seed_step
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec, ShuffleWindow, draw_rows

START_TIMEOUT_S = 30.0  # seconds for a reader to begin, also to begin again after its node was lost
DEGRADED_TIMEOUT_S = 1.0  # the same after one that did not, until one does again
STEP = 0.5  # seconds between looks whether a reader that is waited for is alive


class Batch(NamedTuple):
    """`images` uint8 [N, V, H, W, 3] RGB and `labels` int64 [N], class numbers in ascending order of identity."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images as readers do it: beside the trainer, not inside it.

    In the trainer's process its many small operations would take the interpreter lock from the training step; in a
    reader they run on whatever CPUs the cluster has.

    Args:
        total_steps: of the whole training, for the ramp of the strength.
    """

    settings: AugmentSettings
    total_steps: int

    def build(self) -> FaceAugmentation:
        """The operation, for one reader process."""
        cfg = self.settings
        return FaceAugmentation(flip=cfg.flip, num_ops=cfg.num_ops, magnitude=cfg.magnitude, **cfg.options)

    def strength(self, step: int) -> float:
        """Strength at a step: constant, or a linear ramp over the training."""
        cfg = self.settings
        start = cfg.strength if cfg.strength_start is None else cfg.strength_start
        return start + (cfg.strength - start) * step / self.total_steps


@dataclass(frozen=True)
class LoaderSpec:
    """What a reader must know besides its window: how to draw, where steps begin, how to augment."""

    sampling: SamplingSpec
    batch_size: int
    steps_per_epoch: int
    augmentation: Augmentation | None = None


def read_window(faces: TrainingFaces, window: ShuffleWindow, reading: LoaderSpec) -> Iterator[Batch]:
    """Samples of a window in their shuffled order, decoded and augmented, cut where a step of the training begins.

    Cut there, every piece is known by (epoch, step, rank) and its place in the step, wherever a resumed run began:
    that is what its augmentation is seeded with.
    """
    images, label = faces.read(window, reading.sampling)
    key = [window.seed, window.epoch, window.rank, window.world, window.position]
    rows = draw_rows(label, reading.sampling, np.random.default_rng(key))
    # Pictures made on the way may be rejected; the sampler counts on all, so the others fill their places.
    rows = np.resize(rows, (sum(reading.sampling.samples(g) for g in window.groups), reading.sampling.views))
    augmentation = reading.augmentation
    augment = augmentation.build() if augmentation else None
    begin = window.start
    while begin < window.stop:
        place = window.position + begin
        step, offset = place // reading.batch_size, place % reading.batch_size
        end = min(begin + reading.batch_size - offset, window.stop)
        chosen = rows[begin:end]
        decoded = np.stack([decode_image(images[int(i)].as_buffer()) for i in chosen.ravel()])
        if augmentation is not None and augment is not None:
            step += window.epoch * reading.steps_per_epoch
            augment.strength = augmentation.strength(step)
            generator = torch.Generator().manual_seed(seed_step(window.seed, step, window.rank, offset))
            planes = torch.from_numpy(decoded).permute(0, 3, 1, 2).contiguous()
            decoded = augment(planes, generator).permute(0, 2, 3, 1).contiguous().numpy()
        yield Batch(decoded.reshape(*chosen.shape, *decoded.shape[1:]), label[chosen[:, 0]].astype(np.int64))
        begin = end


def rebatch(pieces: Iterator[Batch], batch_size: int) -> Iterator[Batch]:
    """Cut a stream of pieces of any length into batches of exactly `batch_size`."""
    held: list[Batch] = []
    count = 0
    for piece in pieces:
        held.append(piece)
        count += len(piece.labels)
        while count >= batch_size:
            images = np.concatenate([p.images for p in held]) if len(held) > 1 else held[0].images
            labels = np.concatenate([p.labels for p in held]) if len(held) > 1 else held[0].labels
            yield Batch(images[:batch_size], labels[:batch_size])
            held = [Batch(images[batch_size:], labels[batch_size:])]
            count -= batch_size


def batch_stream(
    faces: TrainingFaces,
    sampler: DistributedBatchSampler,
    rank: int,
    first_step: int,
    last_step: int,
    data: DataSettings,
    augmentation: Augmentation | None = None,
) -> Iterator[Batch]:
    """This rank's batches of steps `first_step` … `last_step − 1`, read, decoded and augmented ahead by Ray tasks."""
    reading = LoaderSpec(sampler.sampling, sampler.batch_size, sampler.steps_per_epoch, augmentation)
    readers = PrefetchLoader(faces, reading, data)
    windows = sampler.windows(rank, first_step, last_step)

    def pieces() -> Iterator[Batch]:
        # One window is being used up, the others are read meanwhile.
        running = collections.deque((w, readers.start(w)) for w in itertools.islice(windows, data.readers + 1))
        while running:
            yield from readers.pieces(*running.popleft())
            running.extend((w, readers.start(w)) for w in itertools.islice(windows, 1))

    yield from rebatch(pieces(), sampler.batch_size)


class PrefetchLoader:
    """Starts the tasks that read windows, and follows them."""

    def __init__(self, faces: TrainingFaces, reading: LoaderSpec, data: DataSettings) -> None:
        self.faces, self.reading, self.data = faces, reading, data
        self.task = ray.remote(read_faces)
        self.degraded = False

    def start(self, window: ShuffleWindow, here: bool = False) -> ray.ObjectRefGenerator:
        """Begin to read a window on any node that has the CPUs, or on this one without asking for any."""
        node = ray.get_runtime_context().get_node_id()
        task = self.task.options(
            num_returns="streaming",
            max_retries=-1,
            _generator_backpressure_num_objects=self.data.read_ahead,
            num_cpus=0 if here else self.data.cpus_per_reader,
            # A worker's own placement group has no room for its readers.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True) if here else "SPREAD",
        )
        return task.remote(self.faces, window, self.reading)

    def pieces(self, window: ShuffleWindow, stream: ray.ObjectRefGenerator) -> Iterator[Batch]:
        """A window's pieces in order, from its reader, or from another that takes its place."""
        reader, left = _Reader(stream), window.stop - window.start
        while left:  # never to the stream's end: what ends a stream that lost its node waits for a CPU too
            piece = reader.next()
            if piece is not None:
                self.degraded = self.degraded and reader.here
                left -= len(piece.labels)
                yield piece
            elif not reader.here and reader.stall_seconds >= self._timeout(reader):
                self._report_degraded(reader)
                ray.cancel(reader.stream)
                rest = replace(window, start=window.stop - left)
                reader = _Reader(self.start(rest, here=True), here=True)

    def _timeout(self, reader: "_Reader") -> float:
        if reader.runs:
            return self.faces.stall_timeout
        return DEGRADED_TIMEOUT_S if self.degraded else START_TIMEOUT_S

    def _report_degraded(self, reader: "_Reader") -> None:
        if not self.degraded:
            what = f"no reader began for {START_TIMEOUT_S:g} s"
            if reader.node:
                silent = f"a reader has sent nothing for {self.faces.stall_timeout:g} s"
                what = silent if reader.runs else f"a reader was lost with its node {START_TIMEOUT_S:g} s ago"
            print(
                f"{what} (data.cpus_per_reader={self.data.cpus_per_reader:g}): reading beside the trainer, "
                "without a reservation, until one does",
                flush=True,
            )
        self.degraded = True


@dataclass
class _Reader:
    """A reader's stream, which begins with the node where it has begun.

    Args:
        here: it runs beside the trainer.
        node: where it began; empty until it says so.
        announced: a piece that is somewhere and has not come yet.
        waited: seconds that were spent waiting for it since it last sent something.
    """

    stream: ray.ObjectRefGenerator
    here: bool = False
    node: str = ""
    announced: ray.ObjectRef | None = None
    stall_seconds: float = 0.0

    @property
    def runs(self) -> bool:
        """It has begun, and its node is not lost: elsewhere it would have to begin again, for which it needs a CPU."""
        return any(node["NodeID"] == self.node and node["Alive"] for node in ray.nodes())

    def next(self) -> Batch | None:
        """The next piece, or None if none has come yet."""
        begin = time.monotonic()
        if self.announced is None and ray.wait([self.stream], timeout=STEP, fetch_local=False)[0]:
            self.announced = next(self.stream)
        # Waited for, not asked for with a timeout, which would begin the transfer anew each time. A piece that was
        # lost with its node is made again.
        if self.announced is None or not ray.wait([self.announced], timeout=STEP)[0]:
            self.stall_seconds += time.monotonic() - begin
            return None
        piece: Batch | str = ray.get(self.announced)
        self.announced, self.stall_seconds = None, 0.0
        if isinstance(piece, Batch):
            return piece
        self.node = piece
        return None


def read_faces(faces: TrainingFaces, window: ShuffleWindow, reading: LoaderSpec) -> Iterator[Batch | str]:
    """Ray task: the id of its node, and the pieces of one window."""
    yield ray.get_runtime_context().get_node_id()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield from read_window(faces, window, reading)
