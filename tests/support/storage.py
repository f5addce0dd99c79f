"""An S3 server for tests (moto's), and a way to it that can be cut."""

import contextlib
import logging
import select
import socket
import threading
from collections.abc import Iterator

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "faces"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def environment(port: int) -> dict[str, str]:
    """Environment of a process whose `s3://` is the server behind `port`."""
    return {
        **CREDENTIALS,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "2",
    }


@contextlib.contextmanager
def s3_server() -> Iterator[int]:
    """A server with an empty bucket; gives its port."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request
    server.start()
    try:
        port = server.get_host_and_port()[1]
        client(port).create_bucket(Bucket=BUCKET)
        yield port
    finally:
        server.stop()


def client(port: int):
    """A boto3 client, for looking at what is really there."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    return boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)


def keys(port: int, prefix: str = "") -> list[str]:
    """Names of all objects below a prefix, without the empty ones that stand for folders."""
    found = client(port).list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [o["Key"] for o in found if not o["Key"].endswith("/")]


class Cable:
    """A TCP way to a server. Once `limit` is set, a connection is cut after that many bytes of upload."""

    def __init__(self, target: int) -> None:
        self.target, self.limit, self.cuts = target, None, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        sent = 0
        with near, socket.create_connection(("127.0.0.1", self.target)) as far, contextlib.suppress(OSError):
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    (far if source is near else near).sendall(data)
                    sent += len(data) if source is near else 0
                    if self.limit is not None and sent > self.limit:
                        self.cuts += 1
                        return
