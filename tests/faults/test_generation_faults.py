"""Generation under faults: the same bytes, every identity once, whatever dies. Beside tests/ray_jobs/test_generate.py,
which kills generator actors and the driver in every `make test`.
"""

import signal
import subprocess
import time

import pytest
from support.clusters import ray_processes, statuses
from support.commands import run

from facelib.data import FaceDataset

pytestmark = [pytest.mark.slow, pytest.mark.faults]
SETTINGS = (
    "--generate.identities", 24, "--generate.images_per_identity", 3, "--generate.identities_per_part", 2,
    "--generate.identities_per_task", 1, "--generate.heldout_identities", 0, "--generate.actors", 2,
    "--generate.cpus_per_actor", 0.5, "--align.cpus_per_actor", 0.5, "--tracking.system_metrics", "false",
)  # fmt: skip


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("part-") or p.suffix == ".json"}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    done = run("generate", "--output", folder / "out", *SETTINGS, folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return files(folder / "out" / "faces")


class Generation:
    """A generation on a cluster, and how far it is."""

    def __init__(self, nodes, folder):
        self.nodes, self.faces = nodes, folder / "out" / "faces"
        self.arguments = ("--output", folder / "out", *SETTINGS)
        self.driver = nodes.start("generate", *self.arguments)
        self.nodes.wait_for(lambda: self.parts >= 1, self.driver, "a first part")

    @property
    def parts(self):
        return len(list(self.faces.glob("part-*")))

    def more_than(self, before):
        """Condition: more parts, or the end."""
        return lambda: self.parts > before or self.driver.poll() is not None

    def replaced(self, lost):
        """Condition: a part more than when as many new actors as are lost were there; or the end."""
        known = set(self.actors())
        return self.nodes.progress_after(
            lambda: len(set(self.actors()) - known) >= len(lost), lambda: self.parts, self.driver
        )

    def actors(self, node=None):
        return [p for kind in ("GeneratorActor", "AlignerActor") for p in self.nodes.processes(kind, node)]

    def check(self, undisturbed):
        assert files(self.faces) == undisturbed
        dataset = FaceDataset(str(self.faces))
        dataset.verify()
        seen = [i for table in dataset.tables(["identity"]) for i in table["identity"].to_pylist()]
        assert sorted(set(seen)) == list(range(24))
        assert statuses(f"sqlite:///{self.nodes.folder}/mlflow.db") == ["FINISHED"]


def test_killed_aligner(nodes, undisturbed, recovery, tmp_path):
    work = Generation(nodes(2), tmp_path)
    aligners = work.nodes.processes("AlignerActor")
    went_on, now = work.replaced(aligners), time.monotonic()
    for aligner in aligners:
        aligner.kill()
    recovery("both aligners killed", "Ray starts them again and repeats their chunks", now, went_on)
    work.nodes.finish("generate", work.driver)
    work.check(undisturbed)


def test_killed_node(nodes, undisturbed, recovery, tmp_path):
    cluster = nodes(1, 2)
    work = Generation(cluster, tmp_path)
    lost = work.actors(cluster.others[0])
    assert lost
    went_on, now = work.replaced(lost), time.monotonic()
    cluster.kill(cluster.others[0])
    cluster.add(2)
    recovery("a node killed during generation, with a spare", "its actors start again on another node, chunks are "
             "repeated", now, went_on)  # fmt: skip
    cluster.finish("generate", work.driver)
    work.check(undisturbed)


def test_slow_node(nodes, undisturbed, recovery, tmp_path):
    work = Generation(nodes(2), tmp_path)
    slow = ray_processes("GeneratorActor", work.nodes.cluster.address)[:1]
    for process in slow:
        process.send_signal(signal.SIGSTOP)
    before, now = work.parts, time.monotonic()
    recovery("a stalled generator", "the others continue; its chunk waits for it", now, work.more_than(before))
    time.sleep(10)
    for process in slow:
        process.send_signal(signal.SIGCONT)
    work.nodes.finish("generate", work.driver)
    work.check(undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_full_disk(small_disk, undisturbed, recovery, tmp_path):
    settings = ("--output", small_disk / "out", *SETTINGS)
    done = run("generate", *settings, folder=tmp_path)
    assert done.returncode == 1
    assert "No space left on device" in done.stderr.strip().splitlines()[-1]
    faces = small_disk / "out" / "faces"
    assert not (faces / "manifest.json").exists()
    left = list(faces.glob(".*"))
    assert left == [], left
    for part in faces.glob("part-*"):
        assert part.read_bytes() == undisturbed[part.name]
    now = time.monotonic()
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    done = run("generate", *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert files(faces) == undisturbed
    recovery("disk full during generation", "the job ends with an error, finished parts stay; the same command "
             "continues once there is space", now, lambda: True)  # fmt: skip
