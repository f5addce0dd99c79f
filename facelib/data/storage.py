"""Folders on any `pyarrow.fs` file system, files written whole or not at all, and files behind a URI as local ones."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.fs as pafs

from facelib.data.errors import DatasetError, StorageError

OBJECT_STORES = {"s3", "gcs", "abfs"}  # pyarrow's names; their uploads are atomic, their renames copies


@dataclass
class Folder:
    """A folder on any `pyarrow.fs` file system, with atomic whole-file writes."""

    uri: str
    fs: pafs.FileSystem = field(init=False, repr=False)
    path: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.uri = str(self.uri).rstrip("/")
        try:
            if "://" in self.uri:
                self.fs, self.path = pafs.FileSystem.from_uri(self.uri)
            else:
                self.fs, self.path = pafs.LocalFileSystem(), self.uri
        except (pa.ArrowException, OSError, ValueError) as error:
            raise storage_error(self.uri, "opened", error) from None

    def create(self) -> "Folder":
        """Make the folder if it is missing."""
        try:
            self.fs.create_dir(self.path, recursive=True)
        except OSError as error:
            raise storage_error(self.uri, "created", error) from None
        return self

    def names(self, hidden: bool = False) -> list[str]:
        """Sorted names of the files in it; empty when it does not exist.

        Args:
            hidden: with those that begin with a dot: temporary files, and what macOS writes beside every file on a
                foreign disk (`._part-0.parquet`).
        """
        try:
            infos = self.fs.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        except OSError as error:
            raise storage_error(self.uri, "listed", error) from None
        files = [i.base_name for i in infos if i.type == pafs.FileType.File]
        return sorted(name for name in files if hidden or not name.startswith("."))

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        try:
            return self.fs.get_file_info(f"{self.path}/{name}").type == pafs.FileType.File
        except OSError as error:
            raise storage_error(f"{self.uri}/{name}", "looked up", error) from None

    def read(self, name: str) -> bytes:
        """A file's bytes; `DatasetError` when it is missing or unreadable."""
        try:
            with self.fs.open_input_file(f"{self.path}/{name}") as stream:
                return stream.read()
        except OSError as error:
            raise storage_error(f"{self.uri}/{name}", "read", error) from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file whole or not at all: after any failure, `name` has its new or its old content, or is absent.

        Object stores show an object when its upload is complete; elsewhere it is written under a temporary name and
        renamed.

        Raises:
            DatasetError: the target is full or not writable; the temporary file is removed.
        """
        if self.fs.type_name in OBJECT_STORES:
            try:
                with self.fs.open_output_stream(f"{self.path}/{name}") as stream:
                    stream.write(data)
            except OSError as error:
                raise storage_error(f"{self.uri}/{name}", "written", error) from None
            return
        temporary = f"{self.path}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            with self.fs.open_output_stream(temporary) as stream:
                stream.write(data)
            self.fs.move(temporary, f"{self.path}/{name}")
        except OSError as error:
            # It was never created, or the same failure forbids removing it; readers ignore the name.
            with contextlib.suppress(OSError):
                self.fs.delete_file(temporary)
            raise storage_error(f"{self.uri}/{name}", "written", error) from None

    def clean_temp_files(self) -> None:
        """Delete temporary files of writers that were killed. Call only while no process writes here."""
        for name in self.names(hidden=True):
            if name.startswith(".") and name.endswith(".tmp"):
                self.fs.delete_file(f"{self.path}/{name}")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that takes the name `path` only when the block ends without an error."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".tmp", delete=False) as file:
        try:
            yield file
            file.flush()
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


@contextlib.contextmanager
def local_copy(source: str | os.PathLike[str]) -> Iterator[Path]:
    """A local path to read `source` from: itself, or for a URI a copy that lives as long as the block.

    Errors raised in the block name the URI in place of the copy.

    Raises:
        FileNotFoundError: nothing is there.
    """
    if "://" not in str(source):
        yield Path(source)
        return
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / Path(str(source)).name
        try:
            filesystem, place = pafs.FileSystem.from_uri(str(source))
            with filesystem.open_input_stream(place) as stream, path.open("wb") as file:
                shutil.copyfileobj(stream, file, 8 << 20)
        except FileNotFoundError:
            raise FileNotFoundError(f"{source} does not exist") from None
        try:
            yield path
        except (ValueError, FileNotFoundError) as error:
            error.args = tuple(str(a).replace(str(path), str(source)) for a in error.args)
            raise


def node_copy(source: str | os.PathLike[str], content: str) -> Path:
    """A local path to read `source` from: itself, or for a URI a copy that the processes of a node share and keep.

    Copies are in the folder that the environment variable FACELIB_CACHE names, by default one in the temporary folder.

    Args:
        content: what the file holds, such as its SHA-256: another content is another copy.

    Raises:
        FileNotFoundError: nothing is there.
        DatasetError: the folder for copies cannot be written.
    """
    if "://" not in str(source):
        return Path(source)
    default = Path(tempfile.gettempdir()) / f"facelib-{os.getuid()}"
    directory = Path(os.environ.get("FACELIB_CACHE") or default)
    path = directory / f"{hashlib.sha256(f'{source} {content}'.encode()).hexdigest()[:32]}{Path(str(source)).suffix}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process copies, the others wait
            if not path.exists():
                with local_copy(source) as copy, copy.open("rb") as file, atomic_file(path) as target:
                    shutil.copyfileobj(file, target, 8 << 20)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise storage_error(f"{directory} (FACELIB_CACHE)", "written", error) from None
    return path


def file_sha256(source: str | os.PathLike[str]) -> str:
    """SHA-256 of what a path or URI holds, hexadecimal.

    Raises:
        FileNotFoundError: nothing is there.
    """
    with local_copy(source) as path, path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# What storage says of a request that will fail again: no such file, not allowed, no room, no folder.
_LASTING = {
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOTDIR,
    errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
}  # fmt: skip


def storage_error(where: str, action: str, error: Exception) -> DatasetError:
    """The error to raise for one of the file system's."""
    lasting = isinstance(error, pa.ArrowException | ValueError) or getattr(error, "errno", None) in _LASTING
    return (DatasetError if lasting else StorageError)(f"{where}: cannot be {action} ({error})")
