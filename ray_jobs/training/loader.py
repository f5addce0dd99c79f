"""Prefetching loader: Ray tasks read, decode and augment ahead of a trainer, on any node with free CPUs.

For a trainer that augments on its GPU they only read: JPEG bytes, a seventh of the pixels, and the random numbers by
which the trainer augments (`ray_jobs.training.device_prefetch`).

These are streaming tasks and not a Ray Data pipeline: its scheduler would run in the trainer's process, and under
back-pressure it polls without a pause, holding the interpreter lock half of the time (steps were 2.5 times slower).

Reading tasks reserve CPUs apart from the trainers, so a cluster that lost nodes may hold trainers and have nothing left
for readers. A reading task therefore first reports the node on which it started. If none starts in time, if its node is
lost (it then waits for a CPU to restart), or if nothing follows (its storage does not respond), the rest of the window
is read on the trainer's own node without a reservation: slower, but the training continues.

Windows are consumed in order, and a task waits while as many batches as it may buffer have not been consumed. Tasks
therefore work side by side only if each may buffer its whole window, which is the default.

Shapes: N samples, V views of a sample, H rows and W columns of an image.
"""

import collections
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import cv2
import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facelib.config import DataSettings
from facelib.data import decode_images
from facelib.utils.random_streams import Purpose, random_generator, torch_seed
from ray_jobs.training.augmentation import AugmentationSpec
from ray_jobs.training.faces import TrainingFaces
from ray_jobs.training.sampler import DistributedBatchSampler, SamplingSpec, ShuffleWindow, draw_rows

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 30.0  # for a reading task to start, also to restart after its node was lost
DEGRADED_TIMEOUT_S = 1.0  # the same after one that did not, until one starts again
POLL_INTERVAL_S = 0.5  # between checks whether a task that is waited for is alive
MAX_BUFFER_BYTES = 1 << 29  # of a window's batches in the object store, unless data.read_ahead says otherwise


class Batch(NamedTuple):
    """`images` uint8 [N, V, 3, H, W] RGB and `labels` int64 [N], class numbers in ascending order of identity."""

    images: np.ndarray
    labels: np.ndarray

    @classmethod
    def concatenate(cls, pieces: Sequence["Batch"]) -> "Batch":
        """One batch of all their samples."""
        return cls(np.concatenate([p.images for p in pieces]), np.concatenate([p.labels for p in pieces]))


class EncodedBatch(NamedTuple):
    """Images as they are stored, neither decoded nor augmented; in the order of [N, V].

    Args:
        data: uint8, the encoded images one after the other.
        sizes: int64 [N·V], bytes of each.
        draws: float64 [N·V, draws an image] that decide the augmentation; no columns: not augmented.
        strength: of the augmentation.
        labels: int64 [N].
    """

    data: np.ndarray
    sizes: np.ndarray
    draws: np.ndarray
    strength: float
    labels: np.ndarray

    @classmethod
    def concatenate(cls, pieces: Sequence["EncodedBatch"]) -> "EncodedBatch":
        """One batch of all their samples, which are of one training step."""
        data, sizes, draws, labels = (
            np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("data", "sizes", "draws", "labels")
        )
        return cls(data, sizes, draws, pieces[0].strength, labels)


Piece = Batch | EncodedBatch


@dataclass(frozen=True)
class LoaderSpec:
    """What a reading task needs besides its window: how to draw samples, where steps begin, how to augment.

    Args:
        encoded: leave decoding and augmentation to the trainer.
    """

    sampling: SamplingSpec
    batch_size: int
    steps_per_pass: int
    augmentation: AugmentationSpec | None = None
    encoded: bool = False


def load_batches(
    faces: TrainingFaces,
    sampler: DistributedBatchSampler,
    rank: int,
    first_step: int,
    last_step: int,
    data: DataSettings,
    augmentation: AugmentationSpec | None = None,
    encoded: bool = False,
) -> Iterator[Any]:
    """This rank's batches of steps `first_step` … `last_step - 1`, read ahead by Ray tasks.

    Returns:
        `Batch`es, decoded and augmented, or with `encoded` an `EncodedBatch` of each step.
    """
    spec = LoaderSpec(sampler.sampling, sampler.batch_size, sampler.steps_per_pass, augmentation, encoded)
    loader = PrefetchLoader(faces, spec, data)
    windows = sampler.windows(rank, first_step, last_step)

    def pieces() -> Iterator[Piece]:
        # One window is being consumed while the others are read.
        running = collections.deque((w, loader.start(w)) for w in itertools.islice(windows, data.readers + 1))
        while running:
            yield from loader.pieces(*running.popleft())
            running.extend((w, loader.start(w)) for w in itertools.islice(windows, 1))

    yield from rebatch(pieces(), sampler.batch_size)


class PrefetchLoader:
    """Starts the tasks that read shuffle windows, and replaces those that do not deliver."""

    def __init__(self, faces: TrainingFaces, spec: LoaderSpec, data: DataSettings) -> None:
        self.faces, self.spec, self.data = faces, spec, data
        self.task = ray.remote(read_faces)
        self.degraded = False

    def start(self, window: ShuffleWindow, local: bool = False) -> ray.ObjectRefGenerator:
        """Start to read a window on any node with free CPUs, or on this one without a reservation."""
        node = ray.get_runtime_context().get_node_id()
        task = self.task.options(
            num_returns="streaming",
            max_retries=-1,
            _generator_backpressure_num_objects=self._buffered_objects(window),
            num_cpus=0 if local else self.data.cpus_per_reader,
            # A worker's own placement group has no resources for its readers.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True) if local else "SPREAD",
        )
        return task.remote(self.faces, window, self.spec)

    def pieces(self, window: ShuffleWindow, stream: ray.ObjectRefGenerator) -> Iterator[Piece]:
        """A window's pieces in order, from its task or from the one that replaces it."""
        task, left = _ReadingTask(stream), window.stop - window.start
        while left:  # Never until the stream's end: the end of a stream that lost its node waits for a CPU too.
            piece = task.next()
            if piece is not None:
                self.degraded = self.degraded and task.local
                left -= len(piece.labels)
                yield piece
            elif not task.local and task.stall_seconds >= self._timeout(task):
                self._report_degraded(task)
                ray.cancel(task.stream)
                rest = replace(window, start=window.stop - left)
                task = _ReadingTask(self.start(rest, local=True), local=True)

    def _buffered_objects(self, window: ShuffleWindow) -> int:
        """Objects that a window's task may have made and the trainer not yet consumed."""
        if self.data.read_ahead:
            return self.data.read_ahead
        sample = self.spec.sampling.views * 3 * self.faces.image_spec.size**2 // (4 if self.spec.encoded else 1)
        fitting = MAX_BUFFER_BYTES // (sample * self.spec.batch_size)
        # The first object is the node's id; a window begins and ends within a step.
        pieces = 1 + 2 + (window.stop - window.start) // self.spec.batch_size
        return max(min(pieces, fitting), 2)

    def _timeout(self, task: "_ReadingTask") -> float:
        if task.is_running:
            return self.faces.stall_timeout
        return DEGRADED_TIMEOUT_S if self.degraded else START_TIMEOUT_S

    def _report_degraded(self, task: "_ReadingTask") -> None:
        if not self.degraded:
            if not task.node:
                cause = f"no reading task started for {START_TIMEOUT_S:g} s"
            elif task.is_running:
                cause = f"a reading task has sent nothing for {self.faces.stall_timeout:g} s"
            else:
                cause = f"a reading task was lost with its node {START_TIMEOUT_S:g} s ago"
            logger.warning(
                "%s (data.cpus_per_reader=%g): reading on the trainer's node without a reservation until one starts",
                cause,
                self.data.cpus_per_reader,
            )
        self.degraded = True


@dataclass
class _ReadingTask:
    """A running task's stream; its first item is the node on which it started.

    Args:
        local: it runs on the trainer's node.
        node: where it started; empty until it reports that.
        pending: a piece that exists and has not arrived yet.
        stall_seconds: time spent waiting since it last sent something.
    """

    stream: ray.ObjectRefGenerator
    local: bool = False
    node: str = ""
    pending: ray.ObjectRef | None = None
    stall_seconds: float = 0.0

    @property
    def is_running(self) -> bool:
        """It has started and its node is alive; on another node it would have to restart, which needs a CPU."""
        return any(node["NodeID"] == self.node and node["Alive"] for node in ray.nodes())

    def next(self) -> Piece | None:
        """The next piece, or None if none has arrived yet."""
        begin = time.monotonic()
        if self.pending is None and ray.wait([self.stream], timeout=POLL_INTERVAL_S, fetch_local=False)[0]:
            self.pending = next(self.stream)
        # ray.wait, not ray.get with a timeout, which would start the transfer again each time. A piece that was lost
        # with its node is made again.
        if self.pending is None or not ray.wait([self.pending], timeout=POLL_INTERVAL_S)[0]:
            self.stall_seconds += time.monotonic() - begin
            return None
        piece: Piece | str = ray.get(self.pending)
        self.pending, self.stall_seconds = None, 0.0
        if isinstance(piece, str):
            self.node = piece
            return None
        return piece


def read_faces(faces: TrainingFaces, window: ShuffleWindow, spec: LoaderSpec) -> Iterator[Piece | str]:
    """Ray task: the id of its node, then the pieces of one window."""
    yield ray.get_runtime_context().get_node_id()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield from read_window(faces, window, spec)


def read_window(faces: TrainingFaces, window: ShuffleWindow, spec: LoaderSpec) -> Iterator[Piece]:
    """Samples of a window in their shuffled order, cut where a training step begins: decoded and augmented, or neither.

    Cut there, every piece is identified by (step, rank) and its offset in the step, wherever a resumed run
    started: that seeds its augmentation.
    """
    encoded, labels = faces.read(window, spec.sampling)
    position = window.pass_number, window.rank, window.world, window.position
    rng = random_generator(Purpose.SAMPLE_ORDER, window.seed, *position)
    rows = draw_rows(labels, spec.sampling, rng)
    # Images generated online may be rejected; the sampler counts on all, so the others fill their places.
    rows = np.resize(rows, (sum(spec.sampling.samples(g) for g in window.groups), spec.sampling.views))
    augment = spec.augmentation.build() if spec.augmentation else None
    begin = window.start
    while begin < window.stop:
        step, offset = divmod(window.position + begin, spec.batch_size)
        end = min(begin + spec.batch_size - offset, window.stop)
        chosen = rows[begin:end]
        step += window.pass_number * spec.steps_per_pass
        seed = torch_seed(Purpose.AUGMENTATION, window.seed, step, window.rank, offset)
        generator = torch.Generator().manual_seed(seed)
        stored = [encoded[int(i)].as_buffer() for i in chosen.ravel()]
        own_labels = labels[chosen[:, 0]].astype(np.int64)
        strength = spec.augmentation.strength(step) if spec.augmentation else 0.0
        if spec.encoded:
            sizes = np.array([image.size for image in stored], np.int64)
            draws = augment.draw(len(stored), generator).numpy() if augment else np.empty((len(stored), 0))
            yield EncodedBatch(np.frombuffer(b"".join(stored), np.uint8), sizes, draws, strength, own_labels)
        else:
            images = torch.from_numpy(decode_images(stored))
            if augment is not None:
                augment.strength = strength
                images = augment(images, generator)
            yield Batch(images.numpy().reshape(*chosen.shape, *images.shape[1:]), own_labels)
        begin = end


def rebatch(pieces: Iterator[Piece], batch_size: int) -> Iterator[Piece]:
    """Join pieces, none of which lies in two training steps, to batches of `batch_size`."""
    held: list[Any] = []
    for piece in pieces:
        held.append(piece)
        if sum(len(p.labels) for p in held) == batch_size:
            yield held[0] if len(held) == 1 else type(piece).concatenate(held)
            held = []
