"""The order of training samples: a function of seed and position only.

A pass over the dataset permutes the row groups, deals them to the ranks, and groups each rank's share into shuffle
windows that are read, shuffled and decoded by Ray tasks (`ray_jobs.training.loader`). The position in the training is a
number of steps, so a resumed run seeks instead of replaying.

An epoch is a pass, unless `ssl.epochs_per_pass` makes a pass several epochs long: a row group must be read whole, and
one pair of each identity uses two of its images.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from facelib.data import DatasetError
from facelib.utils.random_streams import Purpose, random_generator
from facelib.utils.wording import counted

if TYPE_CHECKING:
    from ray_jobs.training.faces import TrainingFaces


@dataclass(frozen=True)
class SamplingSpec:
    """How a method draws from identities.

    Args:
        views: 2 draws pairs of different images of one identity; 1 draws every image once.
        per_identity: pairs of each identity in an epoch (views = 2).
        epochs_per_pass: epochs in which every identity is read once, for the pairs of all of them (views = 2).
    """

    views: int
    per_identity: int = 1
    epochs_per_pass: int = 1

    @property
    def pairs(self) -> bool:
        """Whether pairs are drawn: for methods without labels, which get other people in each pass over a stream."""
        return self.views == 2

    @property
    def per_visit(self) -> int:
        """Pairs of an identity each time it is read."""
        return self.per_identity * self.epochs_per_pass

    def samples(self, group: "RowGroup") -> int:
        """Samples that a row group contributes to one pass."""
        return group.identities * self.per_visit if self.pairs else group.rows


@dataclass(frozen=True)
class RowGroup:
    """One row group: where it is, the class number of its first identity, and its size."""

    part: str
    index: int
    first_class: int
    identities: int
    rows: int


@dataclass(frozen=True)
class ShuffleWindow:
    """Row groups that one task reads and shuffles together, and the range of their samples that is used.

    Args:
        pass_number: passes over the dataset before this one.
        position: of the window's first sample in its rank's share of the pass.
    """

    seed: int
    pass_number: int
    rank: int
    world: int
    position: int
    groups: tuple[RowGroup, ...]
    start: int
    stop: int


class DistributedBatchSampler:
    """Which samples each rank sees at which step.

    Args:
        batch_size: samples of one rank in one step.

    Raises:
        DatasetError: the dataset is too small for one global batch.
    """

    def __init__(
        self,
        faces: "TrainingFaces",
        sampling: SamplingSpec,
        batch_size: int,
        window_row_groups: int,
        seed: int,
        world: int,
    ) -> None:
        self.sampling, self.batch_size, self.window_row_groups = sampling, batch_size, window_row_groups
        self.seed, self.world = seed, world
        self.groups: list[RowGroup] = []
        first_class = 0
        for part, index, identities, rows in faces.row_groups():
            self.groups.append(RowGroup(part, index, first_class, identities, rows))
            first_class += identities
        self.classes = first_class
        self.samples = sum(sampling.samples(g) for g in self.groups) // sampling.epochs_per_pass  # of an epoch
        self.steps_per_epoch = self.samples // (batch_size * world)
        self.steps_per_pass = self.steps_per_epoch * sampling.epochs_per_pass
        if self.steps_per_epoch == 0 or len(self.groups) < world:
            found = f"{counted(self.samples, 'sample')} in {counted(len(self.groups), 'row group')}"
            raise DatasetError(
                f"{faces.uri}: {found} are too few for {counted(world, 'worker')} with train.batch_size={batch_size}: "
                "make more identities or lower the batch size"
            )

    def windows(self, rank: int, first_step: int, last_step: int) -> Iterator[ShuffleWindow]:
        """Windows with this rank's samples of steps `first_step` … `last_step − 1`, counted from the first epoch."""
        for number in range(first_step // self.steps_per_pass, -(-last_step // self.steps_per_pass)):
            begin = max(first_step - number * self.steps_per_pass, 0) * self.batch_size
            end = min(last_step - number * self.steps_per_pass, self.steps_per_pass) * self.batch_size
            yield from self._pass_windows(rank, number, begin, end)

    def _pass_windows(self, rank: int, pass_number: int, begin: int, end: int) -> Iterator[ShuffleWindow]:
        order = random_generator(Purpose.ROW_GROUP_ORDER, self.seed, pass_number).permutation(len(self.groups))
        mine = [self.groups[i] for i in order[rank :: self.world]]
        position, number = 0, 0
        # Row groups are not all of one size: a rank with a small share repeats some of it for the last few samples.
        while position < end:
            at = number * self.window_row_groups % max(len(mine), 1)
            groups = tuple(mine[at : at + self.window_row_groups])
            number = number + 1 if at + self.window_row_groups < len(mine) else 0
            count = sum(self.sampling.samples(g) for g in groups)
            start, stop = max(begin - position, 0), min(end - position, count)
            if start < stop:
                yield ShuffleWindow(self.seed, pass_number, rank, self.world, position, groups, start, stop)
            position += count


def draw_rows(labels: np.ndarray, sampling: SamplingSpec, rng: np.random.Generator) -> np.ndarray:
    """Rows of each sample, [samples, V]: two different images of an identity, or one image."""
    if not sampling.pairs:
        return rng.permutation(len(labels))[:, None]
    starts = np.flatnonzero(np.r_[True, np.diff(labels) != 0])
    counts = np.diff(np.r_[starts, len(labels)])
    if sampling.epochs_per_pass > 1:
        return _draw_rounds(starts, counts, sampling.per_visit, rng)
    starts, counts = np.tile(starts, sampling.per_identity), np.tile(counts, sampling.per_identity)
    query = (rng.random(len(starts)) * counts).astype(np.int64)
    # The key is another image than the query; an identity with one image gives both views.
    step = 1 + (rng.random(len(starts)) * np.maximum(counts - 1, 1)).astype(np.int64)
    pairs = np.stack([starts + query, starts + (query + step) % counts], axis=1)
    return pairs[rng.permutation(len(pairs))]


def _draw_rounds(starts: np.ndarray, counts: np.ndarray, rounds: int, rng: np.random.Generator) -> np.ndarray:
    """A pair of every identity in each round, in another order: its pairs are as far apart as the window allows.

    An identity's pairs share no image until all of its images are used, so that few are read in vain.
    """
    pairs = np.empty((len(starts), rounds, 2), np.int64)
    for pair, start, count in zip(pairs, starts, counts, strict=True):
        whole = max(count // 2, 1)  # rounds until all images are used
        shuffled = [np.resize(rng.permutation(count), (whole, 2)) for _ in range(-(-rounds // whole))]
        pair[:] = start + np.concatenate(shuffled)[:rounds]
    return np.concatenate([pairs[rng.permutation(len(pairs)), number] for number in range(rounds)])
