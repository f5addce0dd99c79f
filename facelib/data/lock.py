"""One job at a time in a folder, local or remote.

The holder keeps a small file in the folder and renews it. On the holder's own machine a dead process is seen at once;
from other machines a lock that is not renewed for `LEASE_SECONDS` belongs to nobody. No clocks are compared: the
watcher measures with its own how long the file stays unchanged.

Local folders create the file exclusively. Object stores cannot: there the file is written, left to settle, and read
back, and the last writer has it. A holder that finds another's name in its lock ends its process as SIGTERM would.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow.fs as pafs

from facelib.data.errors import DatasetError
from facelib.data.storage import Folder
from facelib.utils.process import HOST, PID, is_running, on_this_host, this_process

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
        who: name of the job, for the other's error message.

    Raises:
        FolderInUseError: another job is at work there.
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
        # Storage that is away cannot be tidied; whoever comes next sees that this process has ended.
        with contextlib.suppress(DatasetError, OSError):
            if (_read(folder) or {}).get("token") == owner["token"]:
                folder.fs.delete_file(f"{folder.path}/{LOCK_NAME}")


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
        print(f"{folder.uri}: the lock of a {holder.get('job')} job that has died is taken over", flush=True)
    folder.write(LOCK_NAME, _bytes(owner))
    time.sleep(SETTLE_SECONDS)
    winner = _read(folder)
    if winner is None or winner.get("token") != owner["token"]:
        raise _in_use(folder, winner or {})


def _outwait(folder: Folder, holder: dict[str, Any]) -> None:
    """Return when the lock of another host is free or has not been renewed for a lease; raise when it is renewed."""
    print(f"{folder.uri}: is {_name(holder)} still alive? Watching its lock for {LEASE_SECONDS:.0f} s", flush=True)
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
            found = _read(folder)
            if found is not None and found.get("token") != owner["token"]:
                print(f"{folder.uri}: {_name(found)} has taken the folder over; this job ends", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            owner["renewed"] += 1
            folder.write(LOCK_NAME, _bytes(owner))
        except (DatasetError, OSError):
            continue  # The storage is away for now: try again; the next reading tells whether the lock was lost.


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
    """The holder, or None when there is no lock; a file that stays unreadable has no holder who could be asked."""
    for attempt in range(2):
        if not folder.exists(LOCK_NAME):
            return None
        try:
            found = json.loads(folder.read(LOCK_NAME))
            return found if isinstance(found, dict) else {}
        except (DatasetError, ValueError):
            if attempt == 0:
                time.sleep(0.2)  # Just created, or just deleted: look again.
    return {} if folder.exists(LOCK_NAME) else None


def _bytes(owner: dict[str, Any]) -> bytes:
    return json.dumps(owner, sort_keys=True).encode()


def _name(holder: dict[str, Any]) -> str:
    return f"{holder.get('job', 'another job')} (process {holder.get(PID, '?')} on {holder.get(HOST, '?')})"


def _in_use(folder: Folder, holder: dict[str, Any]) -> FolderInUseError:
    return FolderInUseError(
        f"{folder.uri} is in use by {_name(holder)}: wait for it, stop it, or use another output folder"
    )
