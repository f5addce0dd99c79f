"""An MLflow server as cluster.yaml starts it, that can be killed."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from support.commands import wait_for


class TrackingServer:
    """A server on a port of its own; its database outlives it.

    Args:
        artifacts: where artifacts go, a folder or a URI.
        more: environment, for instance credentials of the artifacts' store.
    """

    def __init__(self, folder: Path, artifacts: str, **more: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self.uri, self.environment = f"http://127.0.0.1:{self.port}", {**os.environ, **more}
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
                        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db",
                        "--artifacts-destination", artifacts]  # fmt: skip
        self.log = folder / "server.log"

    def start(self) -> None:
        """Start, or start again, and wait until it answers."""
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=self.log.open("a"),
                                        stderr=subprocess.STDOUT, start_new_session=True)  # fmt: skip
        wait_for(self._answers, what=f"the tracking server ({self.log})")

    def kill(self) -> None:
        """SIGKILL the server and its workers."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _answers(self) -> bool:
        try:
            return urllib.request.urlopen(f"{self.uri}/health", timeout=2).status == 200
        except OSError:
            return False
