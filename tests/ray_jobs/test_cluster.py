"""Joining a cluster, and what its processes set up."""

import os
import socket

import pytest
import ray

from facelib.config import load_settings
from ray_jobs.cluster import check_cluster, cluster, configure_data, use_own_token
from ray_jobs.errors import JobError


def test_an_initialized_ray_is_used_and_left_running(ray_cluster):
    with cluster(load_settings(None, [])):
        assert ray.is_initialized()
    assert ray.is_initialized()


def test_a_stream_without_progress_is_an_error_later_where_nodes_may_start(ray_cluster):
    context = ray.data.DataContext.get_current()
    configure_data(load_settings(None, ["ray.no_progress_minutes=2"]))
    assert context.execution_no_progress_timeout_s == 120
    configure_data(load_settings(None, ["ray.no_progress_minutes=2", "ray.autoscaling=true"]))
    assert context.execution_no_progress_timeout_s == 3600
    assert not context.enable_progress_bars


def test_a_process_without_a_share_of_a_gpu_sees_none(ray_cluster):
    @ray.remote(num_cpus=0.1)
    def visible():
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    @ray.remote(num_cpus=0.1)
    class Actor:
        def visible(self):
            return os.environ.get("CUDA_VISIBLE_DEVICES")

    assert ray.get(visible.remote()) == ""
    assert ray.get(Actor.remote().visible.remote()) == ""


def test_a_node_too_slow_for_ray_is_an_error_in_one_line(monkeypatch):
    """Ray waits 30 seconds for a node, and says so with a bare Exception."""

    def init(**options):
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(JobError, match="here: The current node timed out during startup"), cluster(load_settings()):
        pass


def check(*overrides):
    check_cluster(load_settings(None, overrides).ray)


def test_a_cluster_that_answers_passes(ray_cluster, monkeypatch):
    address = ray.get_runtime_context().gcs_address
    check(f"ray.address={address}")
    monkeypatch.setenv("RAY_ADDRESS", address)
    check()


def test_a_cluster_that_is_gone_is_named_with_the_setting_or_variable(monkeypatch):
    with pytest.raises(JobError, match=r"^ray.address=127.0.0.1:9: no Ray cluster can be joined .*refused"):
        check("ray.address=127.0.0.1:9")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(JobError, match=r"^RAY_ADDRESS=127.0.0.1:9, in the environment: .* unset it to run here"):
        check()


def test_what_does_not_answer_is_waited_for_no_longer_than_the_setting_says():
    with socket.create_server(("", 0)) as silent:  # Ray takes the machine's own address for 127.0.0.1
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(JobError, match=rf"^ray.address={address}: .*no answer within 1 s; ray.timeout allows"):
            check(f"ray.address={address}", "ray.timeout=1")


def test_a_cluster_that_asks_for_a_token_says_how_it_is_given(ray_cluster, monkeypatch, tmp_path):
    """The tests' own cluster asks for one, as every local one does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(JobError, match=r"asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"):
        check(f"ray.address={address}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(JobError, match=r"asks for another token than ours"):
        check(f"ray.address={address}")


@pytest.mark.parametrize(("name", "length"), [("TMPDIR", 60), ("RAY_TMPDIR", 60), ("TMPDIR", 90)])
def test_a_long_folder_for_sockets_is_named(monkeypatch, name, length):
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    check()
    monkeypatch.setenv(name, "/" + "x" * (length - 1))
    with pytest.raises(JobError, match=rf"^{name}=/x+, in the environment: too long .* set RAY_TMPDIR to a folder of"):
        check()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    if length < 75:
        check()
    else:
        with pytest.raises(JobError, match=r"^TMPDIR=/x+, .* set TMPDIR to a folder of at most"):
            check()


def test_a_home_that_cannot_be_written_gives_a_token_of_the_jobs_own(monkeypatch):
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    use_own_token()
    assert len(os.environ.pop("RAY_AUTH_TOKEN")) == 64
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/somewhere")
    use_own_token()
    assert "RAY_AUTH_TOKEN" not in os.environ
