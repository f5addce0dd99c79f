"""Ray tasks that read, decode and augment ahead of a trainer, wherever the cluster has CPUs for them.

Streaming tasks, not a Ray Data pipeline: its scheduler would run in the trainer's process, and under back-pressure it
polls without a pause, holding the interpreter lock for half of the time (steps were 2.5 times slower).

Readers reserve CPUs apart from the trainers, so a cluster that lost nodes may hold trainers and have nothing left for
readers, for as long as nobody brings a node back. A trainer whose next piece does not come looks whether that is why,
and then has the window read on its own node without a reservation: slower, but it goes on.
"""

import collections
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from facelib.config import DataSettings
from ray_jobs.training.batches import (
    Augmentation,
    Batch,
    BatchPlan,
    Reading,
    TrainingFaces,
    Window,
    read_window,
    rebatch,
)

PATIENCE = 30.0  # seconds without a piece until the cluster is asked whether it has CPUs for readers
STARVED_PATIENCE = 1.0  # the same once it had none


def batch_stream(
    faces: TrainingFaces,
    plan: BatchPlan,
    rank: int,
    first_step: int,
    last_step: int,
    data: DataSettings,
    augmentation: Augmentation | None = None,
) -> Iterator[Batch]:
    """This rank's batches of steps `first_step` … `last_step − 1`, read, decoded and augmented ahead by Ray tasks."""
    reading = Reading(plan.sampling, plan.batch_size, plan.steps_per_epoch, augmentation)
    readers = Readers(faces, reading, data)
    windows = plan.windows(rank, first_step, last_step)

    def pieces() -> Iterator[Batch]:
        # One window is being used up, the others are read meanwhile.
        running = collections.deque((w, readers.start(w)) for w in itertools.islice(windows, data.readers + 1))
        while running:
            yield from readers.pieces(*running.popleft())
            running.extend((w, readers.start(w)) for w in itertools.islice(windows, 1))

    yield from rebatch(pieces(), plan.batch_size)


class Readers:
    """Starts the tasks that read windows, and follows them."""

    def __init__(self, faces: TrainingFaces, reading: Reading, data: DataSettings) -> None:
        self.faces, self.reading, self.cpus = faces, reading, data.cpus_per_reader
        self.read_ahead = data.read_ahead
        self.patience = PATIENCE

    def start(self, window: Window, here: bool = False) -> ray.ObjectRefGenerator:
        """Begin to read a window on any node that has the CPUs, or on this one without asking for any."""
        node = ray.get_runtime_context().get_node_id()
        task = ray.remote(read_faces).options(
            num_returns="streaming",
            max_retries=-1,
            _generator_backpressure_num_objects=self.read_ahead,
            num_cpus=0 if here else self.cpus,
            # A worker's own placement group has no room for its readers.
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True) if here else "SPREAD",
        )
        return task.remote(self.faces, window, self.reading)

    def pieces(self, window: Window, stream: ray.ObjectRefGenerator) -> Iterator[Batch]:
        """A window's pieces in order, from its reader, or from another that takes its place."""
        reader, taken = _Reader(stream), 0
        while not reader.finished:
            piece = reader.next(self.patience)
            if piece is None:
                if not reader.finished and not reader.here and self._starved():
                    ray.cancel(stream)
                    reader = _Reader(self.start(window, here=True), here=True)
                continue
            if not reader.here:
                self.patience = PATIENCE
            if reader.given > taken:  # one that took over begins with the window's first piece
                taken = reader.given
                yield piece

    def _starved(self) -> bool:
        if ray.available_resources().get("CPU", 0) >= self.cpus:
            return False
        if self.patience == PATIENCE:
            print(f"no {self.cpus:g} CPUs are left for a reader: reading beside the trainer", flush=True)
        self.patience = STARVED_PATIENCE
        return True


@dataclass
class _Reader:
    """A reader's stream.

    Args:
        here: it runs beside the trainer.
        reference: a piece that was announced and has not come yet.
        given: pieces that came.
    """

    stream: ray.ObjectRefGenerator
    here: bool = False
    reference: ray.ObjectRef | None = None
    given: int = 0
    finished: bool = False

    def next(self, patience: float) -> Batch | None:
        """The next piece, or None: it did not come in `patience` seconds, or the stream is `finished`."""
        if self.reference is None:
            ready, _ = ray.wait([self.stream], timeout=patience, fetch_local=False)
            if not ready:
                return None
            self.reference = next(self.stream, None)
            if self.reference is None:
                self.finished = True
                return None
        try:
            # A piece that was lost with its node is read again first, which may have to wait for a CPU too.
            piece: Batch = ray.get(self.reference, timeout=patience)
        except ray.exceptions.GetTimeoutError:
            return None
        self.reference, self.given = None, self.given + 1
        return piece


def read_faces(faces: TrainingFaces, window: Window, reading: Reading) -> Iterator[Batch]:
    """Ray task: the pieces of one window."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield from read_window(faces, window, reading)
