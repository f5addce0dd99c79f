"""Training batches in an order that depends on nothing but seed and position.

An epoch permutes the row groups, deals them to the ranks, and groups each rank's share into windows that are read,
shuffled and decoded by Ray tasks (`ray_jobs.training.readers`). One stream serves the whole training: the position in
it is a number of steps, so a resumed run seeks instead of replaying, and no epoch pays for starting a pipeline. Faces
come from a stored dataset (`StoredFaces`) or are made while training goes on (`ray_jobs.training.streamed_faces`).
N samples, V views of a sample, H and W pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import torch

from facelib.augmentation import FaceAugmentation
from facelib.config import AugmentSettings
from facelib.data import Contract, DatasetError, FaceDataset, decode_image
from ray_jobs.training.optimization import seed_step


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

    def samples(self, group: "RowGroup") -> int:
        """Samples that a row group gives in one epoch."""
        return group.identities * self.per_identity if self.views == 2 else group.rows


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
    """Row groups that one task reads and shuffles, and the slice of their samples that is used.

    Args:
        position: of the window's first sample in its rank's share of the epoch.
    """

    seed: int
    epoch: int
    rank: int
    world: int
    position: int
    groups: tuple[RowGroup, ...]
    start: int
    stop: int


class TrainingFaces(Protocol):
    """Where training takes its faces from. Sent to the readers, so it pickles small.

    Attributes:
        uri: what messages call it.
        identities: in one epoch; labels below it are class numbers.
        contract: what the pixels mean.
        silence: seconds that a reader may send nothing before another takes its place.
    """

    @property
    def uri(self) -> str: ...

    @property
    def identities(self) -> int: ...

    @property
    def contract(self) -> Contract: ...

    @property
    def silence(self) -> float: ...

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """Every row group as (part name, index in the part, identities, rows)."""
        ...

    def read(self, window: Window, sampling: Sampling) -> tuple[pa.Array, np.ndarray]:
        """Encoded pictures of a window and their labels int64, group by group; an identity's pictures together."""
        ...


class StoredFaces:
    """A finished face dataset as `TrainingFaces`.

    Raises:
        DatasetError: see `FaceDataset`.
    """

    silence = 60.0  # a storage that does not answer; a window is read in seconds, a piece is one batch

    def __init__(self, uri: str) -> None:
        self.dataset = FaceDataset(uri)
        self.uri = self.dataset.folder.uri
        self.identities = self.dataset.manifest.identities
        self.contract = self.dataset.contract

    def __reduce__(self) -> tuple[type["StoredFaces"], tuple[str]]:
        return StoredFaces, (self.uri,)  # a reader opens it anew: the manifest of a large dataset is large

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """See `FaceDataset.row_groups`."""
        return self.dataset.row_groups()

    def read(self, window: Window, sampling: Sampling) -> tuple[pa.Array, np.ndarray]:
        """Read the window's row groups; the label is the number of the identity in the dataset."""
        tables, labels = [], []
        for group in window.groups:
            table = self.dataset.read_row_groups(group.part, [group.index], ["image", "identity"])
            found, inverse = np.unique(table["identity"].to_numpy(), return_inverse=True)
            if len(found) != group.identities:
                raise DatasetError(f"{self.uri}/{group.part}: row group {group.index} differs from the manifest")
            tables.append(table.select(["image"]))
            labels.append(group.first_class + inverse)
        return pa.concat_tables(tables)["image"].combine_chunks(), np.concatenate(labels)


class BatchPlan:
    """Which samples each rank sees at which step.

    Args:
        batch_size: samples of one rank in one step.

    Raises:
        DatasetError: the dataset is too small for one global batch.
    """

    def __init__(
        self, faces: TrainingFaces, sampling: Sampling, batch_size: int, window_row_groups: int, seed: int, world: int
    ) -> None:
        self.sampling, self.batch_size, self.window_row_groups = sampling, batch_size, window_row_groups
        self.seed, self.world = seed, world
        self.groups: list[RowGroup] = []
        first_class = 0
        for part, index, identities, rows in faces.row_groups():
            self.groups.append(RowGroup(part, index, first_class, identities, rows))
            first_class += identities
        self.classes = first_class
        self.samples = sum(sampling.samples(g) for g in self.groups)
        self.steps_per_epoch = self.samples // (batch_size * world)
        if self.steps_per_epoch == 0 or len(self.groups) < world:
            raise DatasetError(
                f"{faces.uri}: {self.samples} samples in {len(self.groups)} row groups are too few for "
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
            count = sum(self.sampling.samples(g) for g in groups)
            start, stop = max(begin - position, 0), min(end - position, count)
            if start < stop:
                yield Window(self.seed, epoch, rank, self.world, position, groups, start, stop)
            position += count


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
        ask = self.settings
        return FaceAugmentation(flip=ask.flip, num_ops=ask.num_ops, magnitude=ask.magnitude, **ask.options)

    def strength(self, step: int) -> float:
        """Strength at a step: constant, or a linear ramp over the training."""
        ask = self.settings
        start = ask.strength if ask.strength_start is None else ask.strength_start
        return start + (ask.strength - start) * step / self.total_steps


@dataclass(frozen=True)
class Reading:
    """What a reader must know besides its window: how to draw, where steps begin, how to augment."""

    sampling: Sampling
    batch_size: int
    steps_per_epoch: int
    augmentation: Augmentation | None = None


def read_window(faces: TrainingFaces, window: Window, reading: Reading) -> Iterator[Batch]:
    """Samples of a window in their shuffled order, decoded and augmented, cut where a step of the training begins.

    Cut there, every piece is known by (epoch, step, rank) and its place in the step, wherever a resumed run began:
    that is what its augmentation is seeded with.
    """
    images, label = faces.read(window, reading.sampling)
    key = [window.seed, window.epoch, window.rank, window.world, window.position]
    rows = _draw(label, reading.sampling, np.random.default_rng(key))
    # Pictures made on the way may be rejected; the plan counts on all, so the others fill their places.
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
