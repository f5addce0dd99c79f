"""configs/clusters/onprem.yaml, really run: `ray up` over ssh to this machine, a job, its results, `ray down`."""

import getpass
import hashlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from support.clusters import BIN, free_port
from support.commands import CEILING_S, ROOT, wait_for

from facelib.data import FaceDataset

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin")
FILE = ROOT / "configs" / "clusters" / "onprem.yaml"


def port_22_is_taken():
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", 22)) == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.faults,
    pytest.mark.skipif(SSHD is None, reason="no sshd (Debian: openssh-server)"),
    pytest.mark.skipif(shutil.which("rsync") is None, reason="no rsync"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may listen on ssh's port"),
    pytest.mark.skipif(port_22_is_taken(), reason="another ssh server has port 22"),
]


@pytest.fixture
def homes(tmp_path):
    """A home folder for the administrator and one for the node's user, who has an environment already."""
    stamp = Path(sys.prefix) / ".facelib-installed"  # where install.sh looks: without it, it would fill the environment
    before = stamp.read_text() if stamp.exists() else None
    here, there = tmp_path / "here", tmp_path / "there"
    for home in (here, there):
        (home / ".ssh").mkdir(parents=True)
        (home / ".bashrc").write_text("")
    (here / ".ray").mkdir()
    (here / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    environment = there / "environment"
    environment.mkdir()
    (environment / "venv").symlink_to(BIN.parent)
    files = ("pyproject.toml", "constraints.txt", "configs/clusters/install.sh")
    stamp.write_text(hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in files)).hexdigest())
    yield here, there
    if before is None:
        stamp.unlink()
    else:
        stamp.write_text(before)


@pytest.fixture
def ssh_server(tmp_path, homes):
    """Our own ssh server on port 22 for the length of the test, with a key nobody else has; gives the key."""
    key, host_key, settings = tmp_path / "key", tmp_path / "host_key", tmp_path / "sshd_config"
    for path in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    settings.write_text(
        f"ListenAddress 127.0.0.1\nHostKey {host_key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile {tmp_path}/sshd.pid\n"
        f"SetEnv HOME={homes[1]}\nSubsystem sftp internal-sftp\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", settings], stderr=(tmp_path / "sshd.log").open("w"))
    wait_for(port_22_is_taken, what="the ssh server")
    yield key
    server.terminate()
    server.wait(20)


def adapted(key, temporary, ports):
    """The shipped file with this machine's address, user and key, and ports that are free here."""
    text = FILE.read_text()
    changes = {
        "head_ip: 192.0.2.10": "head_ip: 127.0.0.1",
        "worker_ips: [192.0.2.11, 192.0.2.12]": "worker_ips: []",
        "min_workers: 2\nmax_workers: 2": "min_workers: 0\nmax_workers: 0",
        "cluster_name: facelib": f"cluster_name: facelib-test-{os.getpid()}",
        "ssh_user: facelib": f"ssh_user: {getpass.getuser()}",
        "ssh_private_key: ~/.ssh/id_ed25519": f"ssh_private_key: {key}",
        "127.0.0.1:5000": f"127.0.0.1:{ports['mlflow']}",
        "--port 5000": f"--port {ports['mlflow']}",
        "--port=6379 --dashboard-host": f"--port={ports['gcs']} --dashboard-host",
        "--dashboard-port=8265": f"--dashboard-port={ports['dashboard']}",
        "ray start --head": f"ray start --head --temp-dir={temporary} --node-ip-address=127.0.0.1 --num-cpus=2"
        f" --ray-client-server-port={ports['client']} --dashboard-agent-listen-port={ports['agent']}"
        " --min-worker-port=0 --max-worker-port=0 --object-store-memory=300000000",
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def end(*words):
    """End the processes whose command line holds one of `words`, which only ours do."""
    ours = []
    for process in psutil.process_iter(["cmdline", "pid"]):
        line = " ".join(process.info["cmdline"] or [])
        if process.info["pid"] != os.getpid() and any(str(word) in line for word in words):
            ours.append(process)
    for process in ours:
        process.terminate()
    for process in psutil.wait_procs(ours, timeout=20)[1]:
        process.kill()


def test_ray_up_a_job_and_ray_down(tmp_path, homes, ssh_server):
    here, there = homes
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    ports = {name: free_port() for name in ("gcs", "dashboard", "client", "agent", "mlflow")}
    file = tmp_path / "cluster.yaml"
    file.write_text(adapted(ssh_server, temporary, ports))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH", "MLFLOW_"))}
    environment = {**clean, "HOME": str(here), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}

    def ray(*arguments, timeout=CEILING_S):
        return subprocess.run([BIN / "ray", *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True,
                              text=True, timeout=timeout)  # fmt: skip

    try:
        up = ray("up", "-y", "--no-config-cache", file)
        assert up.returncode == 0, up.stdout + up.stderr
        token = there / ".ray" / "auth_token"
        assert token.read_text() == (here / ".ray" / "auth_token").read_text()
        assert token.stat().st_mode & 0o777 == 0o600

        address = f"http://127.0.0.1:{ports['dashboard']}"
        wait_for(lambda: ray("job", "list", "--address", address).returncode == 0, what="the job server")
        done = ray("job", "submit", "--address", address, "--working-dir", ".", "--", "python", "-m",
                   "ray_jobs.generate", "--output", tmp_path / "out", "--generate.identities", 4,
                   "--generate.images_per_identity", 2, "--generate.heldout_identities", 0,
                   "--generate.actors", 1, "--tracking.system_metrics", "false")  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"wrote {tmp_path}/out/faces" in done.stdout
        FaceDataset(f"{tmp_path}/out/faces").verify()
        client = MlflowClient(f"http://127.0.0.1:{ports['mlflow']}")
        runs = client.search_runs([client.get_experiment_by_name("facelib").experiment_id])
        assert [r.info.status for r in runs] == ["FINISHED"]

        down = ray("down", "-y", file)
        assert down.returncode == 0, down.stdout + down.stderr
    finally:
        end(temporary, f"sqlite:///{there}/mlflow")  # `ray down` of a local provider leaves processes running
        shutil.rmtree(temporary, ignore_errors=True)
