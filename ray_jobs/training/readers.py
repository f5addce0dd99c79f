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

PATIENCE = 30.0  # seconds for a reader to begin, also to begin again after its node was lost
STARVED_PATIENCE = 1.0  # the same after one that did not, until one does again
STEP = 0.5  # seconds between looks whether a reader that is waited for is alive


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
        self.faces, self.reading, self.data = faces, reading, data
        self.task = ray.remote(read_faces)
        self.starved = False

    def start(self, window: Window, here: bool = False) -> ray.ObjectRefGenerator:
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

    def pieces(self, window: Window, stream: ray.ObjectRefGenerator) -> Iterator[Batch]:
        """A window's pieces in order, from its reader, or from another that takes its place."""
        reader, left = _Reader(stream), window.stop - window.start
        while left:  # never to the stream's end: what ends a stream that lost its node waits for a CPU too
            piece = reader.next()
            if piece is not None:
                self.starved = self.starved and reader.here
                left -= len(piece.labels)
                yield piece
            elif not reader.here and reader.waited >= self._patience(reader):
                self._say_starved(reader)
                ray.cancel(reader.stream)
                rest = replace(window, start=window.stop - left)
                reader = _Reader(self.start(rest, here=True), here=True)

    def _patience(self, reader: "_Reader") -> float:
        if reader.runs:
            return self.faces.silence
        return STARVED_PATIENCE if self.starved else PATIENCE

    def _say_starved(self, reader: "_Reader") -> None:
        if not self.starved:
            what = f"no reader began for {PATIENCE:g} s"
            if reader.node:
                silent = f"a reader has sent nothing for {self.faces.silence:g} s"
                what = silent if reader.runs else f"a reader was lost with its node {PATIENCE:g} s ago"
            print(
                f"{what} (data.cpus_per_reader={self.data.cpus_per_reader:g}): reading beside the trainer, "
                "without a reservation, until one does",
                flush=True,
            )
        self.starved = True


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
    waited: float = 0.0

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
            self.waited += time.monotonic() - begin
            return None
        piece: Batch | str = ray.get(self.announced)
        self.announced, self.waited = None, 0.0
        if isinstance(piece, Batch):
            return piece
        self.node = piece
        return None


def read_faces(faces: TrainingFaces, window: Window, reading: Reading) -> Iterator[Batch | str]:
    """Ray task: the id of its node, and the pieces of one window."""
    yield ray.get_runtime_context().get_node_id()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield from read_window(faces, window, reading)
