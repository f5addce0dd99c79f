"""A stored dataset on a slow disk, for reading tasks on any node."""

import time

from ray_jobs.training.faces import StoredFaces


class SlowFaces(StoredFaces):
    """Faces on a disk that responds slower than any timeout."""

    def __reduce__(self):
        return SlowFaces, (self.uri,)

    def read(self, window, sampling):
        time.sleep(3)
        return super().read(window, sampling)
