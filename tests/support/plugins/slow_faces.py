"""A stored dataset on a slow disk, for readers on any node."""

import time

from ray_jobs.training.faces import StoredFaces


class SlowFaces(StoredFaces):
    """Faces on a disk that takes longer than any patience."""

    def __reduce__(self):
        return SlowFaces, (self.uri,)

    def read(self, window, sampling):
        time.sleep(5)
        return super().read(window, sampling)
