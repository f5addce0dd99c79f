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

    Raises:
        DatasetError: see `FaceDataset`.
    """

    stall_timeout = 60.0  # for storage that does not respond; a window is read in seconds

    def __init__(self, uri: str, cache: PartCache | None = None) -> None:
        self.dataset = FaceDataset(uri, cache)
        self.uri = self.dataset.folder.uri
        self.identities = self.dataset.manifest.identities
        self.image_spec = self.dataset.image_spec

    def __reduce__(self) -> tuple[object, tuple[str, PartCache | None, str]]:
        # A process that reads opens it itself, once: the manifest of a large dataset is large.
        return _opened, (self.uri, self.dataset.cache, self.dataset.fingerprint)

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """See `FaceDataset.row_groups`."""
        return self.dataset.row_groups()

    def read(self, window: ShuffleWindow, sampling: SamplingSpec) -> tuple[pa.Array, np.ndarray]:
        """Read the window's row groups; the label is the number of the identity in the dataset."""
        with ThreadPoolExecutor(CONCURRENT_READS) as pool:
            images, labels = zip(*pool.map(self._read_group, window.groups), strict=True)
        return pa.chunked_array([c for image in images for c in image.chunks]).combine_chunks(), np.concatenate(labels)

    def _read_group(self, group: RowGroup) -> tuple[pa.ChunkedArray, np.ndarray]:
        table = self.dataset.read_row_groups(group.part, [group.index], ["image", "identity"])
        found, inverse = np.unique(table["identity"].to_numpy(), return_inverse=True)
        if len(found) != group.identities:
            raise DatasetError(f"{self.uri}/{group.part}: row group {group.index} differs from the manifest")
        return table["image"], group.first_class + inverse


@functools.lru_cache(maxsize=2)
def _opened(uri: str, cache: PartCache | None, fingerprint: str) -> StoredFaces:
    """The dataset with that manifest, opened once in each process.

    Raises:
        DatasetError: it has another manifest.
    """
    faces = StoredFaces(uri, cache)
    if faces.dataset.fingerprint != fingerprint:
        raise DatasetError(f"{faces.uri} was written again since the training began: run the job again")
    return faces
