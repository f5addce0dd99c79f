"""Training batches from a face dataset through Ray Data, in an order that depends on nothing but seed and position.

An epoch permutes the row groups, deals them to the ranks, and groups each rank's share into windows that are read,
shuffled and decoded by Ray tasks. One stream serves the whole training: the position in it is a number of steps, so a
resumed run seeks instead of replaying, and no epoch pays for starting a pipeline. N samples, V views of a sample, H
and W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from facelib.config import DataSettings
from facelib.faces import DatasetError, FaceDataset, decode_image


class Batch(NamedTuple):
    """`images` uint8 [N, V, H, W, 3] RGB and `labels` int64 [N], class numbers in ascending order of identity."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Sampling:
    """How a method draws from identities.

    Args:
        views: 2 draws pairs of different images of one identity; 1 draws every image once.
        per_identity: pairs of each identity in an epoch (views = 2).
    """

    views: int
    per_identity: int = 1


@dataclass(frozen=True)
class RowGroup:
    """One row group: where it lies, the class number of its first identity, and what it holds."""

    part: str
    index: int
    first_class: int
    identities: int
    rows: int


@dataclass(frozen=True)
class Window:
    """Row groups that one task reads and shuffles, and the slice of their samples that is used."""

    seed: tuple[int, ...]
    groups: tuple[RowGroup, ...]
    start: int
    stop: int


class BatchPlan:
    """Which samples each rank sees at which step.

    Args:
        batch_size: samples of one rank in one step.

    Raises:
        DatasetError: the dataset is too small for one global batch.
    """

    def __init__(
        self, dataset: FaceDataset, sampling: Sampling, batch_size: int, window_row_groups: int, seed: int, world: int
    ) -> None:
        self.sampling, self.batch_size, self.window_row_groups = sampling, batch_size, window_row_groups
        self.seed, self.world = seed, world
        self.groups: list[RowGroup] = []
        first_class = 0
        for part, index, identities, rows in dataset.row_groups():
            self.groups.append(RowGroup(part, index, first_class, identities, rows))
            first_class += identities
        self.classes = first_class
        self.samples = sum(self._samples(g) for g in self.groups)
        self.steps_per_epoch = self.samples // (batch_size * world)
        if self.steps_per_epoch == 0 or len(self.groups) < world:
            raise DatasetError(
                f"{dataset.folder.uri}: {self.samples} samples in {len(self.groups)} row groups are too few for "
                f"{world} workers with train.batch_size={batch_size}: make more identities or lower the batch size"
            )

    def windows(self, rank: int, first_step: int, last_step: int) -> Iterator[Window]:
        """Windows with this rank's samples of steps `first_step` … `last_step − 1`, counted from the first epoch."""
        for epoch in range(first_step // self.steps_per_epoch, -(-last_step // self.steps_per_epoch)):
            begin = max(first_step - epoch * self.steps_per_epoch, 0) * self.batch_size
            end = min(last_step - epoch * self.steps_per_epoch, self.steps_per_epoch) * self.batch_size
            yield from self._epoch_windows(rank, epoch, begin, end)

    def _epoch_windows(self, rank: int, epoch: int, begin: int, end: int) -> Iterator[Window]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.groups))
        mine = [self.groups[i] for i in order[rank :: self.world]]
        position, number = 0, 0
        # Row groups are not all of one size: a rank with a small share starts it again for the last few samples.
        while position < end:
            at = number * self.window_row_groups % max(len(mine), 1)
            groups = tuple(mine[at : at + self.window_row_groups])
            number = number + 1 if at + self.window_row_groups < len(mine) else 0
            count = sum(self._samples(g) for g in groups)
            start, stop = max(begin - position, 0), min(end - position, count)
            if start < stop:
                yield Window((self.seed, epoch, rank, self.world, position), groups, start, stop)
            position += count

    def _samples(self, group: RowGroup) -> int:
        return group.identities * self.sampling.per_identity if self.sampling.views == 2 else group.rows


def batch_stream(
    dataset: FaceDataset, plan: BatchPlan, rank: int, first_step: int, last_step: int, data: DataSettings
) -> Iterator[Batch]:
    """This rank's batches of steps `first_step` … `last_step − 1`, read ahead by Ray tasks."""
    windows = list(plan.windows(rank, first_step, last_step))
    if not windows:
        return
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True  # The order is the experiment; readers still run in parallel.
    context.target_max_block_size = 32 * 2**20  # A window leaves its task in pieces, not as one huge block.
    reader = ReadWindow(dataset.folder.uri, ray.put(windows), plan.sampling, plan.batch_size)
    stream = ray.data.from_items(
        [{"window": i} for i in range(len(windows))], override_num_blocks=min(len(windows), 4000)
    ).map_batches(
        reader,
        batch_size=1,
        num_cpus=data.cpus_per_reader,
        compute=ray.data.TaskPoolStrategy(size=data.readers),
    )
    pieces = (_unpack(row) for row in stream.iter_batches(batch_size=1, prefetch_batches=2, batch_format="numpy"))
    yield from rebatch(pieces, plan.batch_size)


class ReadWindow:
    """Ray task: the samples of one window, decoded, in pieces of about a batch."""

    def __init__(self, uri: str, windows: ray.ObjectRef, sampling: Sampling, batch_size: int) -> None:
        self.uri, self.windows, self.sampling, self.batch_size = uri, windows, sampling, batch_size

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
        windows = ray.get(self.windows)
        for number in batch["window"]:
            for piece in read_window(FaceDataset(self.uri), windows[int(number)], self.sampling, self.batch_size):
                yield {
                    "images": [piece.images.tobytes()],
                    "shape": [list(piece.images.shape)],
                    "labels": [piece.labels.tobytes()],
                }


def read_window(dataset: FaceDataset, window: Window, sampling: Sampling, piece: int) -> Iterator[Batch]:
    """Samples of a window in their shuffled order, decoded `piece` at a time."""
    tables, labels = [], []
    for group in window.groups:
        table = dataset.read_row_groups(group.part, [group.index], ["image", "identity"])
        found, inverse = np.unique(table["identity"].to_numpy(), return_inverse=True)
        if len(found) != group.identities:
            raise DatasetError(f"{dataset.folder.uri}/{group.part}: row group {group.index} differs from the manifest")
        tables.append(table.select(["image"]))
        labels.append(group.first_class + inverse)
    images, label = pa.concat_tables(tables)["image"].combine_chunks(), np.concatenate(labels)
    rows = _draw(label, sampling, np.random.default_rng(list(window.seed)))[window.start : window.stop]
    for begin in range(0, len(rows), piece):
        chosen = rows[begin : begin + piece]
        decoded = [decode_image(images[int(i)].as_buffer()) for i in chosen.ravel()]
        stacked = np.stack(decoded).reshape(*chosen.shape, *decoded[0].shape)
        yield Batch(stacked, label[chosen[:, 0]].astype(np.int64))


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


def _draw(labels: np.ndarray, sampling: Sampling, rng: np.random.Generator) -> np.ndarray:
    """Rows of each sample, [samples, V]: two different images of an identity, or one image."""
    if sampling.views == 1:
        return rng.permutation(len(labels))[:, None]
    starts = np.flatnonzero(np.r_[True, np.diff(labels) != 0])
    counts = np.diff(np.r_[starts, len(labels)])
    starts, counts = np.tile(starts, sampling.per_identity), np.tile(counts, sampling.per_identity)
    query = (rng.random(len(starts)) * counts).astype(np.int64)
    # The key is another image than the query; an identity with one image gives both views.
    step = 1 + (rng.random(len(starts)) * np.maximum(counts - 1, 1)).astype(np.int64)
    pairs = np.stack([starts + query, starts + (query + step) % counts], axis=1)
    return pairs[rng.permutation(len(pairs))]


def _unpack(row: dict[str, np.ndarray]) -> Batch:
    shape = tuple(int(n) for n in row["shape"][0])
    return Batch(np.frombuffer(row["images"][0], np.uint8).reshape(shape), np.frombuffer(row["labels"][0], np.int64))
