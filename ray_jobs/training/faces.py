"""Where training takes its faces from: the interface, and a stored dataset."""

from typing import Protocol

import numpy as np
import pyarrow as pa

from facelib.data import DatasetError, FaceDataset, ImageSpec
from ray_jobs.training.sampler import SamplingSpec, ShuffleWindow


class TrainingFaces(Protocol):
    """Source of training faces. It is sent to the reading tasks, so it must pickle small.

    Attributes:
        uri: its name in messages.
        identities: number of identities in one epoch; labels are class numbers below it.
        image_spec: what the pixels mean.
        silence: seconds without data after which a reading task is replaced.
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

    Raises:
        DatasetError: see `FaceDataset`.
    """

    stall_timeout = 60.0  # for storage that does not respond; a window is read in seconds

    def __init__(self, uri: str) -> None:
        self.dataset = FaceDataset(uri)
        self.uri = self.dataset.folder.uri
        self.identities = self.dataset.manifest.identities
        self.image_spec = self.dataset.image_spec

    def __reduce__(self) -> tuple[type["StoredFaces"], tuple[str]]:
        return StoredFaces, (self.uri,)  # a reading task opens it itself: the manifest of a large dataset is large

    def row_groups(self) -> list[tuple[str, int, int, int]]:
        """See `FaceDataset.row_groups`."""
        return self.dataset.row_groups()

    def read(self, window: ShuffleWindow, sampling: SamplingSpec) -> tuple[pa.Array, np.ndarray]:
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
