"""One job at a time in a folder, local or remote.

The holder keeps a small file in the folder and renews it. On the holder's machine a dead process is noticed at once;
on other machines a lock that is not renewed for `LEASE_SECONDS` has expired. Clocks are not compared: the watcher
measures with its own how long the file stays unchanged.

Local folders create the file exclusively. Object stores cannot: there the file is written, left to settle, and read
back, and the last writer holds the lock. A holder that finds another's name in its lock sends its process SIGTERM.
"""

import contextlib
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs

from facelib.data.errors import DatasetError
from facelib.data.storage import Folder
from facelib.utils.process import HOST, PID, is_running, on_this_host, this_process

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
RENEW_SECONDS = 10.0
LEASE_SECONDS = 60.0
SETTLE_SECONDS = 2.0


class FolderInUseError(DatasetError):
    """Another job is writing to the folder; the message names it."""


@contextlib.contextmanager
def directory_lock(folder: Folder, who: str) -> Iterator[None]:
    """Keep other jobs out of `folder` for the length of the block; wait only to see whether a holder is still alive.

    Args:
        who: name of the job, for the error message of other jobs.

    Raises:
        FolderInUseError: another job holds the lock.
    """
    owner = {"job": who, "token": uuid.uuid4().hex, "renewed": 0, **this_process()}
    _acquire(folder, owner)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, owner, ended), daemon=True, name="folder lock")
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        # Unreachable storage cannot be cleaned up; the next job sees that this process has ended.
        with contextlib.suppress(DatasetError, OSError):
            if (_read(folder) or {}).get("token") == owner["token"]:
                folder.fs.delete_file(f"{folder.path}/{LOCK_NAME}")


def check_not_in_use(folder: Folder) -> None:
    """Refuse a folder that a running process of this host has locked; never waits, and takes no lock.

    Raises:
        FolderInUseError: names the process.
    """
    holder = _read(folder)
    if holder is not None and on_this_host(holder) and is_running(holder):
        raise _in_use(folder, holder)


def _acquire(folder: Folder, owner: dict[str, Any]) -> None:
    local = isinstance(folder.fs, pafs.LocalFileSystem)
    if local and _create(folder, owner):
        return
    holder = _read(folder)
    if holder is not None:
        if on_this_host(holder):
            if is_running(holder):
                raise _in_use(folder, holder)
        else:
            _outwait(folder, holder)
        logger.warning("%s: taking over the lock of a %s job that has died", folder.uri, holder.get("job"))
    folder.write(LOCK_NAME, _bytes(owner))
    time.sleep(SETTLE_SECONDS)
    winner = _read(folder)
    if winner is None or winner.get("token") != owner["token"]:
        raise _in_use(folder, winner or {})


def _outwait(folder: Folder, holder: dict[str, Any]) -> None:
    """Return when the lock of another host is free or has not been renewed for a lease; raise when it is renewed."""
    logger.warning(
        "%s: watching the lock of %s for %.0f s: is it still alive?", folder.uri, _name(holder), LEASE_SECONDS
    )
    end = time.monotonic() + LEASE_SECONDS
    while time.monotonic() < end:
        time.sleep(min(RENEW_SECONDS / 2, LEASE_SECONDS))
        now = _read(folder)
        if now is None:
            return
        if now != holder:
            raise _in_use(folder, now)


def _keep(folder: Folder, owner: dict[str, Any], ended: threading.Event) -> None:
    while not ended.wait(RENEW_SECONDS):
        try:
            holder = _read(folder)
            if holder is not None and holder.get("token") != owner["token"]:
                logger.error("%s: %s has taken over the folder; this job ends", folder.uri, _name(holder))
                os.kill(os.getpid(), signal.SIGTERM)
                return
            owner["renewed"] += 1
            folder.write(LOCK_NAME, _bytes(owner))
        except (DatasetError, OSError):
            continue  # Storage is unreachable for now: try again; the next read shows whether the lock was lost.


def _create(folder: Folder, owner: dict[str, Any]) -> bool:
    """Make the file of a local folder unless there is one."""
    try:
        descriptor = os.open(f"{folder.path}/{LOCK_NAME}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    except OSError as error:
        raise DatasetError(f"{folder.uri}/{LOCK_NAME}: cannot be written ({error})") from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_bytes(owner))
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(f"{folder.path}/{LOCK_NAME}")
        raise DatasetError(f"{folder.uri}/{LOCK_NAME}: cannot be written ({error})") from None
    return True


def _read(folder: Folder) -> dict[str, Any] | None:
    """The holder, or None when there is no lock; {} for a file that stays unreadable."""
    for attempt in range(2):
        if not folder.exists(LOCK_NAME):
            return None
        try:
            holder = json.loads(folder.read(LOCK_NAME))
            return holder if isinstance(holder, dict) else {}
        except (DatasetError, ValueError):
            if attempt == 0:
                time.sleep(0.2)  # Just created, or just deleted: read again.
    return {} if folder.exists(LOCK_NAME) else None


def _bytes(owner: dict[str, Any]) -> bytes:
    return json.dumps(owner, sort_keys=True).encode()


def _name(holder: dict[str, Any]) -> str:
    return f"{holder.get('job', 'another job')} (process {holder.get(PID, '?')} on {holder.get(HOST, '?')})"


def _in_use(folder: Folder, holder: dict[str, Any]) -> FolderInUseError:
    return FolderInUseError(
        f"{folder.uri} is in use by {_name(holder)}: wait for it, stop it, or use another output folder"
    )
