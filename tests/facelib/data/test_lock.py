"""Against a real second process; other hosts are played by locks with another host's name."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facelib.data import Folder
from facelib.data import lock as locks
from facelib.data.lock import LOCK_NAME, FolderInUseError, directory_lock
from facelib.utils.process import this_process

ROOT = Path(__file__).parents[3]
HOLD = """
import sys, time
from facelib.data import Folder
from facelib.data.lock import directory_lock
with directory_lock(Folder(sys.argv[1]), "generate"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path):
    return Folder(str(tmp_path))


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """The same rules, by a faster clock."""
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.5)
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.05)


def test_a_folder_is_held_and_given_back(folder):
    with directory_lock(folder, "generate"):
        assert folder.names(hidden=True) == [LOCK_NAME]
    assert folder.names(hidden=True) == []
    with pytest.raises(ZeroDivisionError), directory_lock(folder, "generate"):
        1 / 0  # noqa: B018
    assert folder.names(hidden=True) == []


def test_a_second_job_is_told_who_is_there(folder):
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder.path], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderInUseError, match=rf"in use by generate \(process {process.pid} on "),
            directory_lock(folder, "train_ssl"),
        ):
            pass
    finally:
        process.kill()
        process.wait()
    # Killed: its lock is still there, and holds nobody up.
    assert folder.exists(LOCK_NAME)
    with directory_lock(folder, "train_ssl"):
        assert json.loads(folder.read(LOCK_NAME))["job"] == "train_ssl"
    assert not folder.exists(LOCK_NAME)


def elsewhere(folder, renewed):
    lock = {**this_process(), "host": "another-node", "job": "generate", "token": "theirs", "renewed": renewed}
    folder.write(LOCK_NAME, json.dumps(lock).encode())


def test_the_lock_of_a_dead_node_expires_after_its_lease(folder, caplog):
    elsewhere(folder, 1)
    started = time.monotonic()
    with directory_lock(folder, "generate"):
        assert time.monotonic() - started > locks.LEASE_SECONDS
    assert "watching the lock of generate (process" in caplog.text
    assert "taking over the lock of a generate job that has died" in caplog.text


def test_a_live_node_is_left_alone(folder, monkeypatch):
    elsewhere(folder, 1)
    renewals = iter(range(2, 100))
    sleep = time.sleep

    def renewing(seconds):
        sleep(seconds)
        elsewhere(folder, next(renewals))

    monkeypatch.setattr(locks.time, "sleep", renewing)
    with pytest.raises(FolderInUseError, match="on another-node"), directory_lock(folder, "generate"):
        pass
    assert json.loads(folder.read(LOCK_NAME))["token"] == "theirs"


@pytest.mark.parametrize("content", [b"", b"no JSON", b"[]"])
def test_a_lock_truncated_by_a_crash_is_taken_over(folder, content):
    folder.write(LOCK_NAME, content)
    with directory_lock(folder, "generate"):
        pass
    assert not folder.exists(LOCK_NAME)


def test_a_job_that_loses_the_lock_is_ended(folder, caplog):
    class Ended(BaseException):
        pass

    def end(*_):
        raise Ended

    def held_and_lost():
        with directory_lock(folder, "generate"):
            elsewhere(folder, 1)
            time.sleep(30)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Ended):
            held_and_lost()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "on another-node) has taken over the folder" in caplog.text
    assert json.loads(folder.read(LOCK_NAME))["token"] == "theirs"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(ValueError, match=r"file/\.lock: cannot be written"),
        directory_lock(Folder(str(tmp_path / "file")), "generate"),
    ):
        pass
