"""A Ray cluster of the test's own, as an administrator starts one, and jobs submitted to it."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil

from support.commands import CEILING_S, ROOT, wait_for
from support.tracking import new_store

BIN = Path(sys.executable).parent


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Head:
    """`ray start --head` with a token, ports and a folder of its own; ended by its own process id.

    Args:
        more: environment of the cluster, which jobs inherit.
    """

    def __init__(self, folder: Path, cpus: int = 2, **more: str) -> None:
        self.folder, self.temporary = folder, tempfile.mkdtemp(prefix="ray", dir="/tmp")  # socket paths are short
        token = folder / "auth_token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_ADDRESS", "RAY_JOB", "PYTHONPATH"))}
        self.environment = {
            **clean,
            "PATH": f"{BIN}:{clean['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_JOB_STOP_WAIT_TIME_S": "30",  # as in the cluster files
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.25",
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_TRACKING_URI": new_store(folder),
            **more,
        }
        self.gcs, self.dashboard = free_port(), free_port()
        ports = {"port": self.gcs, "dashboard-port": self.dashboard, "ray-client-server-port": free_port(),
                 "dashboard-agent-listen-port": free_port(), "min-worker-port": 0, "max-worker-port": 0}  # fmt: skip
        command = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1",
                   "--dashboard-host=127.0.0.1", f"--temp-dir={self.temporary}", f"--num-cpus={cpus}",
                   "--object-store-memory=300000000", *(f"--{k}={v}" for k, v in ports.items())]  # fmt: skip
        self.log = folder / "head.log"
        self.process = subprocess.Popen(
            command, cwd="/", env=self.environment, stdout=self.log.open("w"), stderr=subprocess.STDOUT
        )
        self.address = f"http://127.0.0.1:{self.dashboard}"
        wait_for(self._answers, what=f"a cluster ({self.log})")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        # The list of jobs is there once the node's agent is.
        return self.ray("job", "list", "--address", self.address).returncode == 0

    def ray(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a `ray` command of a user who has the token."""
        return subprocess.run([BIN / "ray", *map(str, arguments)], cwd=ROOT, env=self.environment,
                              capture_output=True, text=True, timeout=CEILING_S)  # fmt: skip

    def submit(
        self, *command: object, wait: bool = True, timeout: float = CEILING_S
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- command`, to its end unless `wait` is false."""
        flags = [] if wait else ["--no-wait"]
        return self.ray("job", "submit", "--address", self.address, "--working-dir", ".", *flags, "--", *command)

    def stop(self) -> None:
        """End every process of this cluster and of no other."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for process in psutil.wait_procs(family, timeout=20)[1]:
            process.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)


def job_id(submitted: subprocess.CompletedProcess[str]) -> str:
    """The id that `ray job submit` printed."""
    return re.search(r"raysubmit_\w+", submitted.stdout + submitted.stderr)[0]


def ray_processes(name: str, address: str) -> list[psutil.Process]:
    """Worker processes of the cluster at `address` whose title contains `name`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        try:
            if any(name in word for word in process.info["cmdline"] or []) and _belongs(process, address):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _belongs(process: psutil.Process, address: str) -> bool:
    """Whether a raylet above the process was started with the cluster's address."""
    return any(address in " ".join(parent.cmdline()) for parent in process.parents() if parent.name() == "raylet")


def statuses(uri: str) -> list[str]:
    """Statuses of all MLflow runs of a store."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("facelib")
    return [r.info.status for r in client.search_runs([experiment.experiment_id])] if experiment else []
