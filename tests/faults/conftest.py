"""Several Ray nodes on one machine, and the table of injected faults (docs/reliability.md)."""

import json
import os
import subprocess
import time
from pathlib import Path

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from support.clusters import free_port, ray_processes
from support.commands import ROOT, command, wait_for
from support.tracking import new_store
from support.training import datasets

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- written by `make faults` -->\n", "<!-- end -->\n"
MEASURED = []


class Nodes:
    """A cluster of nodes that can be killed; jobs join it by its address."""

    def __init__(self, folder: Path, *cpus: int) -> None:
        self.folder = folder
        head = {"num_cpus": cpus[0], "include_dashboard": True, "dashboard_port": free_port()}
        self.cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": 200_000_000})
        self.others = [self.add(count) for count in cpus[1:]]
        self.cluster.wait_for_nodes()

    def add(self, cpus: int):
        """One more node."""
        return self.cluster.add_node(num_cpus=cpus, object_store_memory=200_000_000)

    def kill(self, node) -> None:
        """SIGKILL everything of a node."""
        self.cluster.remove_node(node, allow_graceful=False)

    def processes(self, name: str, node=None) -> list[psutil.Process]:
        """Worker processes of all nodes, or of one, whose title contains `name`."""
        raylets = {process.pid for kind, process in node.live_processes() if kind == "raylet"} if node else set()
        found = ray_processes(name, self.cluster.address)
        return [process for process in found if not node or raylets & {p.pid for p in process.parents()}]

    def node_of(self, name: str):
        """A node beside the head that has such a process."""
        found = [node for node in self.others if self.processes(name, node)]
        assert found, f"no {name} beside the head"
        return found[0]

    @staticmethod
    def progress_after(sign, progress, driver: subprocess.Popen):
        """Condition: `progress()` is above what it was when `sign()` came true; or the job has ended.

        What was under way when something was killed is no progress.
        """
        at = []

        def condition() -> bool:
            if not at and sign():
                at.append(progress())
            return driver.poll() is not None or (bool(at) and progress() > at[0])

        return condition

    def goes_on(self, job: str, driver: subprocess.Popen, says: str, progress):
        """`progress_after` the job's log says `says` once more."""
        before = self.log(job).count(says)
        return self.progress_after(lambda: self.log(job).count(says) > before, progress, driver)

    def start(self, job: str, *arguments: object, uri: str = "") -> subprocess.Popen:
        """Start a job on the cluster; its words go to <folder>/<job>.log."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_JOB")}
        environment = {**clean, "RAY_ADDRESS": self.cluster.address, "PYTHONUNBUFFERED": "1",
                       "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
                       "MLFLOW_TRACKING_URI": uri or new_store(self.folder)}  # fmt: skip
        return subprocess.Popen(command(job, *arguments), cwd=ROOT, env=environment, text=True,
                                stdout=(self.folder / f"{job}.log").open("a"), stderr=subprocess.STDOUT)  # fmt: skip

    def log(self, job: str) -> str:
        """What a job has said so far."""
        return (self.folder / f"{job}.log").read_text()

    def wait_for(self, condition, driver: subprocess.Popen, what: str) -> None:
        """Wait for something that a running job does."""
        wait_for(lambda: condition() or driver.poll() is not None, 400, what)
        assert condition(), "".join(log.read_text() for log in self.folder.glob("*.log"))

    def finish(self, job: str, driver: subprocess.Popen, seconds: float = 600) -> None:
        """Wait for a job that is to succeed."""
        assert driver.wait(timeout=seconds) == 0, self.log(job)

    def end(self) -> None:
        """Stop all nodes."""
        ray.shutdown()
        self.cluster.shutdown()


@pytest.fixture
def nodes(tmp_path, monkeypatch):
    """Function: a cluster with so many CPUs on each node, the head first."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # all on the loopback address
    started = []

    def start(*cpus):
        started.append(Nodes(tmp_path, *cpus))
        return started[-1]

    yield start
    for cluster in started:
        cluster.end()


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """Flags that name a training dataset of 48 identities and a held-out one."""
    return datasets(tmp_path_factory.mktemp("data"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Let fixtures see whether their test passed."""
    report = yield
    if report.when == "call":
        item.passed = report.passed
    return report


@pytest.fixture
def recovery(request):
    """Function: note a fault, what happens, and how long it took until the work went on; kept if the test passes."""
    noted = []

    def note(fault, happens, since, went_on):
        wait_for(went_on, 400, f"progress after {fault}")
        noted.append({"fault": fault, "what happens": happens, "seconds": round(time.monotonic() - since, 1)})

    yield note
    if getattr(request.node, "passed", False):
        MEASURED.extend(noted)


def pytest_sessionfinish():
    """Write the table into the page: rows measured now replace those of the same fault."""
    if not MEASURED or not os.environ.get("FACELIB_FAULTS"):
        return
    head, _, rest = PAGE.read_text().partition(BEGIN)
    old, _, tail = rest.partition(END)
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in old.splitlines()[2:] if line.startswith("|")}
    for row in MEASURED:
        rows[row["fault"]] = f"| {row['fault']} | {row['what happens']} | {row['seconds']} s |"
    table = "\n".join(["| fault | what happens | time until work continues |", "|---|---|---|", *rows.values()])
    PAGE.write_text(f"{head}{BEGIN}{table}\n{END}{tail}")
    (ROOT / "runs").mkdir(exist_ok=True)
    (ROOT / "runs" / "faults.json").write_text(json.dumps(MEASURED, indent=1))
