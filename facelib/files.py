"""Local files written whole or not at all; files behind a URI as local ones."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pyarrow.fs as pafs


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


def file_sha256(source: str | os.PathLike[str]) -> str:
    """SHA-256 of what a path or URI holds, hexadecimal.

    Raises:
        FileNotFoundError: nothing is there.
    """
    with local_copy(source) as path, path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
