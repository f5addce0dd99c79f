"""Joining a Ray cluster or starting a local one, and what every process of a job sets up."""

import contextlib
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facelib.config import RaySettings, Settings
from facelib.utils.background import in_background
from facelib.utils.process import children, end_processes
from ray_jobs.errors import JobError
from ray_jobs.logs import worker_environment

logger = logging.getLogger(__name__)

HIDE_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
SETUP_HOOK = "ray_jobs.worker_setup.setup_worker_process"
MAX_SOCKET_PATH = 107  # bytes, of Linux; 103 on macOS
RAY_SOCKET = "/ray/session_2026-01-31_12-00-00_000000_1234567/sockets/plasma_store.1"  # below RAY_TMPDIR or TMPDIR
PYTHON_SOCKET = "/pymp-12345678/listener-12345678"  # below TMPDIR, of multiprocessing in Ray's dashboard


@contextlib.contextmanager
def cluster(settings: Settings) -> Iterator[None]:
    """Join the cluster that the settings name, or start a local one for the duration of the block.

    Whatever interrupts the start of a local one leaves no process behind.

    Args:
        settings: `ray` is used.

    Raises:
        JobError: Ray cannot be started, or the cluster cannot be joined.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    _set_environment(settings.ray)
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    address = cluster_address(settings.ray)
    local = address == "local"
    options = _options_of_local(settings.ray) if local else _options_of_joined(address)
    with _interruptible(), _setup_hook_inherited() if local else contextlib.nullcontext():
        try:
            started = ray.init(address=address, logging_level=logging.WARNING, **options)
        except Exception as error:
            if local:  # A node that takes longer than Ray's 30 s to start is a bare Exception.
                raise JobError(f"Ray cannot be started here: {error}") from error
            if isinstance(error, (RuntimeError, ConnectionError)):
                raise _cannot_join(settings.ray, address, error) from error
            raise
    if local and settings.ray.dashboard:
        logger.info("Ray: dashboard at http://%s (its token: `ray get-auth-token`)", started.dashboard_url)
    try:
        yield
    finally:
        ray.shutdown()


def _options_of_local(cfg: RaySettings) -> dict[str, Any]:
    """What `ray.init` is given to start a cluster here, whose processes inherit this one's environment."""
    logger.info("Ray: starting on this machine")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # This machine cannot be preempted.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # It reports that tokens are asked for.
    use_own_token()
    options: dict[str, Any] = {"include_dashboard": cfg.dashboard}
    if cfg.object_store_gb:
        options["object_store_memory"] = int(cfg.object_store_gb * 1e9)
    return options


def _options_of_joined(address: str) -> dict[str, Any]:
    """What `ray.init` is given to join a cluster; its workers are set up by a runtime environment."""
    logger.info("Ray: joining %s", address)
    environment = {**worker_environment(), HIDE_GPUS: os.environ[HIDE_GPUS]}
    return {"runtime_env": {"worker_process_setup_hook": SETUP_HOOK, "env_vars": environment}}


def cluster_address(cfg: RaySettings) -> str:
    """The cluster to join; `local`: a new one. Ray's default is the one that was started last, even if it is gone."""
    return cfg.address or os.environ.get("RAY_ADDRESS", "") or "local"


def check_cluster(cfg: RaySettings) -> None:
    """Ask whether the cluster to join answers and takes our token, or whether a local one can start.

    Ray itself would try for minutes.

    Raises:
        JobError: names the address, the setting or variable that it came from, and the reason.
    """
    address = cluster_address(cfg)
    if address == "local":
        _check_temp_dir()
        return
    try:
        reason = in_background(lambda: _ask(address, cfg.timeout)).result(cfg.timeout + 1)
    except TimeoutError:
        reason = _no_answer(cfg.timeout)
    except OSError as error:
        reason = str(error)
    if reason:
        raise _cannot_join(cfg, address, reason)


def _ask(address: str, seconds: float) -> str:
    """Why the process at `address` cannot be joined; empty if it may be."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address

    client = address.startswith("ray://")
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true") or ("://" in address and not client):
        return ""  # It would not understand the question.
    # `auto` is the cluster that was started last on this machine.
    target = address.removeprefix("ray://") if client else canonicalize_bootstrap_address(address)
    if target is None:
        return ""
    token = _token()
    with grpc.insecure_channel(target) as channel:
        ask = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetClusterId")
        try:
            ask(b"", timeout=seconds, metadata=[("authorization", f"Bearer {token}")] if token else None)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                wrong = "another token than ours" if token else "a token"
                return (
                    f"it asks for {wrong}: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or put the token into "
                    "~/.ray/auth_token; `ray get-auth-token` prints it on the cluster's head"
                )
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return _no_answer(seconds)
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return str(error.details()).rpartition("Failed to connect to remote host: ")[2]
            return "" if client else f"what answers there is not Ray: {error.details()}"
    return ""


def _no_answer(seconds: float) -> str:
    return f"no answer within {seconds:g} s; ray.timeout allows longer"


def _token() -> str:
    """The token that Ray would send, from where it looks for one."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token":
        return ""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return os.environ["RAY_AUTH_TOKEN"]
    with contextlib.suppress(OSError, RuntimeError):  # none, or no home
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser().read_text().strip()
    return ""


def _cannot_join(cfg: RaySettings, address: str, reason: object) -> JobError:
    origin = f"ray.address={address}" if cfg.address else f"RAY_ADDRESS={address}, in the environment"
    remedy = "unset it" if not cfg.address else "leave it empty"
    return JobError(f"{origin}: no Ray cluster can be joined ({reason}). Start it, correct it, or {remedy} to run here")


def _set_environment(cfg: RaySettings) -> None:
    """Environment variables of Ray for this process and, on a local cluster, for all others."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Processes that reserve no share of a GPU see none: libraries use every GPU they see. (Coming versions of Ray will
    # not do that by default.)
    os.environ.setdefault(HIDE_GPUS, "1")
    # Threads that spin while they wait take the cores from readers and generators: five times slower on two cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Ray Train repeats every printed line as a log record, and logs each step of starting up.
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    if (
        not (sys.stdout.isatty() and sys.stderr.isatty())
        or os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
    ):
        os.environ.setdefault("RAY_COLOR_PREFIX", "0")  # Escape sequences have no place in a file.
    # Where trainers are as many as cores, Ray ends a reader's process that was idle for a second; the next one imports
    # PyTorch again.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "60000")
    if cfg.autoscaling:
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1200")  # New nodes take minutes to start.


def _check_temp_dir() -> None:
    """Refuse a folder for temporary files that is too long for the paths of sockets in it.

    Raises:
        JobError: names the variable and the length that is possible.
    """
    ray = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    for name, socket_path in ((ray, RAY_SOCKET), ("TMPDIR", PYTHON_SOCKET)):
        folder, room = os.environ.get(name, ""), MAX_SOCKET_PATH - len(socket_path)
        if len(os.fsencode(folder)) > room:
            raise JobError(
                f"{name}={folder}, in the environment: too long for the paths of Ray's sockets; set "
                f"{'RAY_TMPDIR' if name == ray else name} to a folder of at most {room} bytes"
            )


def use_own_token() -> None:
    """Give a local cluster a token of its own where Ray cannot keep one below HOME."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"} & os.environ.keys():
        return
    folder = Path("~/.ray").expanduser()
    try:
        folder.mkdir(exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        usable = False
    if not usable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM do what it did before while Ray starts, and end the processes that were started by then.

    Ray installs a handler of its own, which leaves; children that it had started lived on.
    """
    handler = signal.getsignal(signal.SIGTERM)
    before = set(children())
    stopped = False
    try:
        yield
    except BaseException as error:
        # A local cluster's processes; those of a cluster that is joined are not ours.
        end_processes([process for process in children() if process not in before])
        stopped = isinstance(error, SystemExit) and error.code == signal.SIGTERM
        if not stopped:
            raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
        if stopped:
            signal.raise_signal(signal.SIGTERM)


@contextlib.contextmanager
def _setup_hook_inherited() -> Iterator[None]:
    """Let the processes of a cluster that starts here inherit the variable by which Ray tells workers of a setup hook.

    With a runtime environment instead, which is the public way, Ray starts every worker by way of a process that
    imports Ray once more (0.4 CPU seconds), and cannot use those it has started beforehand (ray#33621).
    """
    from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR

    before = os.environ.get(WORKER_PROCESS_SETUP_HOOK_ENV_VAR)
    os.environ[WORKER_PROCESS_SETUP_HOOK_ENV_VAR] = SETUP_HOOK
    try:
        yield
    finally:
        del os.environ[WORKER_PROCESS_SETUP_HOOK_ENV_VAR]
        if before is not None:
            os.environ[WORKER_PROCESS_SETUP_HOOK_ENV_VAR] = before


def configure_data(settings: Settings) -> None:
    """Configure Ray Data for all jobs: no progress bars of its own, and an error instead of an endless wait."""
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Ray's own error in place of a function's arrives without its cause, which says what to do.
    context.raise_original_map_exception = True
    minutes = settings.ray.no_progress_minutes
    context.execution_no_progress_timeout_s = 60 * (max(minutes, 60) if settings.ray.autoscaling else minutes)
    for noisy in ("ray.data", "ray.train"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # It warns that its progress bars are off.
