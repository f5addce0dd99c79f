"""Where training takes its faces from: the interface, and a stored dataset."""

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa

from facelib.data import DatasetError, FaceDataset, ImageSpec, PartCache
from ray_jobs.training.sampler import RowGroup, SamplingSpec, ShuffleWindow

CONCURRENT_READS = 8  # row groups that a reading task fetches at a time; object stores are slow only to respond


class TrainingFaces(Protocol):
    """Source of training faces. It is sent to the reading tasks, so it must pickle small.

    Attributes:
        uri: its name in messages.
        identities: number of identities in one epoch; labels are class numbers below it.
        image_spec: what the pixels mean.
        stall_timeout: seconds without data after which a reading task is replaced.
    """

    @property
    def uri(self) -> str: ...

    @property
    def identities(self) -> int: ...

    @property
    def image_spec(self) -> ImageSpec: ...

    @property
    def stall_timeout(self) -> float: ...

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """Every row group as (part name, index in the part, identities, rows)."""
        ...

    def read(self, window: ShuffleWindow, sampling: SamplingSpec) -> tuple[pa.Array, np.ndarray]:
        """Encoded images of a window and their labels int64, group by group; images of an identity are adjacent."""
        ...


class StoredFaces:
    """A finished face dataset as `TrainingFaces`.

    Args:
        cache: keeps copies of parts on the disk of every node that reads.
        identities: use the first ones only, in the dataset's order (0: all).
        images: use the first ones of every identity only (0: all).

    Raises:
        DatasetError: see `FaceDataset`; there are fewer identities.
    """

    stall_timeout = 60.0  # for storage that does not respond; a window is read in seconds

    def __init__(self, uri: str, cache: PartCache | None = None, identities: int = 0, images: int = 0) -> None:
        self.dataset = FaceDataset(uri, cache)
        self.uri = self.dataset.folder.uri
        self.limits = (identities, images)
        self.identities = identities or self.dataset.manifest.identities
        if self.identities > self.dataset.manifest.identities:
            raise DatasetError(
                f"data.identities: {identities}, but {self.uri} has only {self.dataset.manifest.identities}"
            )
        self.image_spec = self.dataset.image_spec

    def __reduce__(self) -> tuple[object, tuple[str, PartCache | None, str, tuple[int, int]]]:
        # A process that reads opens it itself, once: the manifest of a large dataset is large.
        return _opened, (self.uri, self.dataset.cache, self.dataset.fingerprint, self.limits)

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """See `FaceDataset.row_groups`; without what the limits leave out."""
        groups, left = [], self.identities
        for part, index, identities, rows in self.dataset.row_groups():
            if left == 0:
                break
            groups.append((part, index, min(identities, left), rows))
            left -= groups[-1][2]
        if not any(self.limits):
            return groups
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            counts = pool.map(lambda group: np.count_nonzero(self._kept(group[0], group[1], group[2])), groups)
            return [(*group[:3], int(count)) for group, count in zip(groups, counts, strict=True)]

    def _kept(self, part: str, index: int, identities: int) -> np.ndarray:
        """Which rows of a row group are used, bool [rows]: its first identities, the first images of each."""
        labels = self.dataset.read_row_groups(part, [index], ["identity"])["identity"].to_numpy()
        return _within_limits(labels, identities, self.limits[1])

    def read(self, window: ShuffleWindow, sampling: SamplingSpec) -> tuple[pa.Array, np.ndarray]:
        """Read the window's row groups; the label is the number of the identity in the dataset."""
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            images, labels = zip(*pool.map(self._read_group, window.groups), strict=True)
        return pa.chunked_array([c for image in images for c in image.chunks]).combine_chunks(), np.concatenate(labels)

    def _read_group(self, group: RowGroup) -> tuple[pa.ChunkedArray, np.ndarray]:
        table = self.dataset.read_row_groups(group.part, [group.index], ["image", "identity"])
        if any(self.limits):
            table = table.filter(_within_limits(table["identity"].to_numpy(), group.identities, self.limits[1]))
        found, inverse = np.unique(table["identity"].to_numpy(), return_inverse=True)
        if len(found) != group.identities:
            raise DatasetError(f"{self.uri}/{group.part}: row group {group.index} differs from the manifest")
        return table["image"], group.first_class + inverse


def _within_limits(labels: np.ndarray, identities: int, images: int) -> np.ndarray:
    """Which of rows with ascending identities [N] are of the first identities and their first images, bool [N]."""
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    number = np.cumsum(np.r_[False, labels[1:] != labels[:-1]])
    position = np.arange(len(labels)) - starts[number]
    return (number < identities) & ((position < images) if images else True)


@functools.lru_cache(maxsize=2)
def _opened(uri: str, cache: PartCache | None, fingerprint: str, limits: tuple[int, int]) -> StoredFaces:
    """The dataset with that manifest, opened once in each process.

    Raises:
        DatasetError: it has another manifest.
    """
    faces = StoredFaces(uri, cache, *limits)
    if faces.dataset.fingerprint != fingerprint:
        raise DatasetError(f"{faces.uri} was written again since the training began: run the job again")
    return faces
