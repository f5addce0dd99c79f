"""Parts of remote datasets on a node's own disk, shared by its processes and bounded in size."""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from facelib.data.errors import DatasetError
from facelib.data.manifest import PartInfo
from facelib.data.storage import Folder, atomic_file, storage_error

CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class PartCache:
    """Parts by their checksum. Processes of one node may use it together; the least recently used are deleted.

    Args:
        directory: on a local disk; created when it is missing.
        max_bytes: of all parts together; a larger part is not kept.
    """

    directory: str
    max_bytes: int

    def fetch(self, folder: Folder, part: PartInfo) -> Path | None:
        """Local path of a part of `folder`, copied there if it is not yet; None if it is too large to be kept.

        The file may be deleted by another process after this returns, unless it is open by then.

        Raises:
            DatasetError: the part is missing, unreadable or differs from the manifest; or the cache cannot be written.
        """
        if part.bytes > self.max_bytes:
            return None
        path = Path(self.directory) / f"{part.sha256}.parquet"
        if not _touch(path):
            with self._lock(part.sha256[0]):
                if not _touch(path):  # another process may have copied it meanwhile
                    self._copy(folder, part, path)
                    _touch(path)
            self._evict()
        return path

    def _copy(self, folder: Folder, part: PartInfo, path: Path) -> None:
        source, digest = f"{folder.uri}/{part.name}", hashlib.sha256()
        try:
            with folder.fs.open_input_stream(f"{folder.path}/{part.name}") as stream, atomic_file(path) as file:
                while data := stream.read(CHUNK_BYTES):
                    digest.update(data)
                    file.write(data)
                if digest.hexdigest() != part.sha256:
                    raise DatasetError(f"{source}: differs from the manifest (damaged or replaced)")
        except OSError as error:
            raise storage_error(source, f"copied to {self.directory} (data.cache_dir)", error) from None

    def _evict(self) -> None:
        """Delete the least recently used parts until the others fit."""
        with self._lock("evict"):
            files = [(path, path.stat()) for path in Path(self.directory).glob("*.parquet")]
            excess = sum(status.st_size for _, status in files) - self.max_bytes
            for path, status in sorted(files, key=lambda file: file[1].st_mtime_ns):
                if excess <= 0:
                    break
                path.unlink()
                excess -= status.st_size

    @contextlib.contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        """Released by the system when a process dies."""
        try:
            Path(self.directory).mkdir(parents=True, exist_ok=True)
            descriptor = os.open(Path(self.directory) / f".{name}.lock", os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise storage_error(f"{self.directory} (data.cache_dir)", "written", error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _touch(path: Path) -> bool:
    """Mark as used now; whether it exists."""
    now = time.time_ns()  # finer than what the file system takes by itself
    try:
        os.utime(path, ns=(now, now))
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
