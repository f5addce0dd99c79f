"""One S3 server for the tests here."""

import pytest
from support.storage import environment, s3_server


@pytest.fixture(scope="session")
def s3():
    """Port of an S3 server with the bucket `faces`."""
    with s3_server() as port:
        yield port


@pytest.fixture
def through(s3, monkeypatch):
    """Function: let this process's `s3://` go to a port, by default the server's own."""

    def use(port=s3):
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)

    use()
    return use
