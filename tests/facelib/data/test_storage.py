import os
import subprocess
import sys

import pytest

from facelib.data import DatasetError, Folder, atomic_file, file_sha256, local_copy
from facelib.data.storage import node_copy


def test_a_full_disk_leaves_nothing_that_looks_complete(tmp_path):
    # A file-size limit stands in for a full disk: the write fails half-way in the same place.
    code = (
        "import resource, sys\n"
        "from facelib.data import DatasetError, Folder\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    Folder(sys.argv[1]).write('part-0000000.parquet', bytes(1_000_000))\n"
        "except DatasetError as error:\n    print(error); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    assert "part-0000000.parquet: cannot be written" in done.stdout
    assert os.listdir(tmp_path) == []


def test_a_folder_is_written_and_read(tmp_path):
    folder = Folder(f"file://{tmp_path}/new").create()
    folder.write("b.txt", b"two")
    folder.write("a.txt", b"one")
    assert folder.names() == ["a.txt", "b.txt"]
    assert folder.exists("a.txt")
    assert folder.read("b.txt") == b"two"
    with pytest.raises(DatasetError, match=r"c\.txt: cannot be read"):
        folder.read("c.txt")


def test_temporary_files_of_killed_writers_are_removed(tmp_path):
    (tmp_path / ".part.parquet.1234.tmp").write_bytes(b"half")
    (tmp_path / "part.parquet").write_bytes(b"all of it")
    Folder(str(tmp_path)).clean_temp_files()
    assert os.listdir(tmp_path) == ["part.parquet"]


def test_a_file_appears_complete_or_not_at_all(tmp_path):
    def fail():
        with atomic_file(tmp_path / "set.bin") as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert os.listdir(tmp_path) == []
    with atomic_file(tmp_path / "set.bin") as file:
        file.write(b"all of it")
    assert (tmp_path / "set.bin").read_bytes() == b"all of it"


def test_a_local_copy_of_a_uri(tmp_path):
    (tmp_path / "set.bin").write_bytes(b"abc")
    with local_copy(tmp_path / "set.bin") as path:
        assert path == tmp_path / "set.bin"
    with local_copy(f"file://{tmp_path}/set.bin") as path:
        assert path.read_bytes() == b"abc"
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match=r"none\.bin does not exist"), local_copy(f"file://{tmp_path}/none.bin"):
        pass
    assert file_sha256(tmp_path / "set.bin").startswith("ba7816bf8f01cfea")


def test_a_nodes_processes_share_one_copy_of_a_remote_file(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELIB_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "weights.npz"
    source.write_bytes(b"first")
    assert node_copy(source, "1") == source
    copy = node_copy(f"file://{source}", "1")
    assert copy.read_bytes() == b"first"
    assert copy.suffix == ".npz"
    source.write_bytes(b"second")
    assert node_copy(f"file://{source}", "1").read_bytes() == b"first"
    assert node_copy(f"file://{source}", "2").read_bytes() == b"second"
    with pytest.raises(FileNotFoundError, match="does not exist"):
        node_copy(f"file://{tmp_path}/other", "1")
    monkeypatch.setenv("FACELIB_CACHE", str(source))
    with pytest.raises(DatasetError, match="FACELIB_CACHE"):
        node_copy(f"file://{source}", "1")
