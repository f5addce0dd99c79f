"""MLflow: one run a job, found again after a crash, never left RUNNING by a process that has ended.

The driver opens and closes a run; a training's controller, on the same machine, attaches to it by id (`Run.attach`)
and only logs. Nothing is logged from other machines, so a server that listens on the driver's (`MLFLOW_TRACKING_URI`),
or sqlite, serves a whole cluster.
"""

import contextlib
import json
import logging
import math
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from facelib.config import Settings, TrackingSettings
from facelib.utils.optional import require_extra
from facelib.utils.process import is_running, on_this_host, this_process

logger = logging.getLogger(__name__)

_KEY, _ERROR, _PREFIX = "facelib.key", "facelib.error", "facelib."
_away: dict[str, float] = {}  # store → clock until which it is sent no points, because it did not take the last ones


class TrackingError(RuntimeError):
    """The tracking store cannot be used; the message names its URI."""


def tracking_uri(settings: TrackingSettings) -> str:
    """The URI runs go to: the setting, else MLFLOW_TRACKING_URI, else a sqlite file below ./runs."""
    if settings.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return settings.uri or os.environ["MLFLOW_TRACKING_URI"]
    folder = Path("runs").absolute()
    folder.mkdir(exist_ok=True)
    return f"sqlite:///{folder}/mlflow.db"


class Run:
    """One MLflow run. Use `Run.open` in a driver (a context manager that ends it) and `Run.attach` beside it."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id
        self.client = _client(uri)
        self._monitor: Any = None
        self._lost = False

    @classmethod
    def attach(cls, uri: str, run_id: str) -> "Run":
        """Log to a run that somebody else opened and will end."""
        return cls(uri, run_id)

    @classmethod
    def open(cls, settings: Settings, job: str, name: str = "", parent: str = "", run_id: str = "") -> "Run":
        """Open the run of `job`, or take up again the one that an earlier, unfinished process of the same job left.

        Args:
            parent: id of the run this one is shown under.
            run_id: the run to take up, however it ended; one that is no longer there is begun anew.

        Raises:
            TrackingError: the store cannot be reached.
        """
        uri = tracking_uri(settings.tracking)
        # The key stands between apostrophes in MLflow's search, which knows no escape for one.
        place = settings.path("").replace("'", "%27")
        key = f"{job}:{place}:{settings.fingerprint(*_SECTIONS.get(job, ()))}"
        try:
            _check_sqlite(uri)
            client = _client(uri)
            experiment = _experiment(client, uri, settings.tracking.experiment)
            _end_orphans(client, experiment)
            known = _existing(client, experiment, run_id) or _unfinished(client, experiment, key)
            now = {**_process_tags(), **({"mlflow.parentRunId": parent} if parent else {})}
            if known is None:
                # With all its tags at once: whoever is killed after this leaves a run that can be found and ended.
                tags = {"mlflow.runName": name or f"{settings.name}/{job}", _KEY: key, "facelib.job": job, **now}
                known = client.create_run(experiment, tags=tags).info.run_id
            for tag, value in now.items():
                client.set_tag(known, tag, value)
            data = client.get_run(known).data
            if _ERROR in data.tags:
                client.delete_tag(known, _ERROR)
            if not data.params:
                _log_params(client, known, settings, job)
            client.update_run(known, status="RUNNING")
        except Exception as error:
            raise TrackingError(f"tracking.uri={uri}: MLflow cannot be used ({error})") from error
        run = cls(uri, known)
        if settings.tracking.system_metrics:
            run._start_monitor()
        return run

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not (issubclass(kind, SystemExit) and getattr(error, "code", 1) in (0, None)):
            with contextlib.suppress(Exception):
                self.client.set_tag(self.run_id, _ERROR, f"{kind.__name__}: {error}"[:4000])
            self.end("FAILED")
        else:
            self.end("FINISHED")

    def end(self, status: str) -> None:
        """Set the final status: `FINISHED`, `FAILED`, or `KILLED` for a trial that was stopped early."""
        if self._monitor is not None:
            self._monitor.finish()
            self._monitor = None
        with self._tolerant(f"the status {status}"):
            self.client.set_terminated(self.run_id, status)

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log finite numbers at `step`. A store that is away loses points, not the training.

        Characters that MLflow does not take in a name become `_`. Who waits in vain for a store then sends it nothing
        for ten times as long, so that it costs a tenth of the time at most.
        """
        from mlflow.entities import Metric

        started = time.monotonic()
        if started < _away.get(self.uri, 0):
            return
        now = int(time.time() * 1000)
        finite = {re.sub(r"[^\w\-. /:]", "_", k): float(v) for k, v in metrics.items() if math.isfinite(v)}
        points = [Metric(k, v, now, step) for k, v in finite.items()]
        with self._tolerant("metrics"):
            self.client.log_batch(self.run_id, metrics=points)
            _away.pop(self.uri, None)
            return
        ended = time.monotonic()
        _away[self.uri] = ended + 10 * (ended - started)

    def steps(self, name: str) -> set[int]:
        """Steps at which a metric was logged; none when the store is away."""
        found: set[int] = set()
        with self._tolerant("a question"):
            found = {point.step for point in self.client.get_metric_history(self.run_id, name)}
        return found

    def log_file(self, path: str | Path, folder: str = "") -> None:
        """Store a local file as an artifact."""
        with self._tolerant(str(path)):
            self.client.log_artifact(self.run_id, str(path), folder or None)

    def log_json(self, value: Any, name: str) -> None:
        """Store a JSON value as an artifact."""
        with self._tolerant(name):
            self.client.log_text(self.run_id, json.dumps(value, indent=2, default=str), name)

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the run."""
        with self._tolerant(key):
            self.client.set_tag(self.run_id, key, value)

    @contextlib.contextmanager
    def _tolerant(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._lost:
                logger.warning("MLflow at %s rejected %s (%s); continuing without it", self.uri, what, error)
            self._lost = True

    def _start_monitor(self) -> None:
        import mlflow
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        mlflow.set_tracking_uri(self.uri)
        monitor = SystemMetricsMonitor(self.run_id, sampling_interval=5, samples_before_logging=2, resume_logging=True)
        monitor.start()
        self._monitor = monitor


# What makes a job's run "the same run" when it is started again.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "align"),
    "import_data": ("import_data", "align", "data"),
    "train_ssl": ("generate", "align", "data", "model", "augment", "ssl", "train"),
    "train_unpg": ("generate", "align", "data", "model", "augment", "unpg", "train"),
    "tune": ("generate", "align", "data", "model", "augment", "ssl", "unpg", "train", "tune"),
    "evaluate": ("evaluate",),
    "embed": ("embed", "align"),
    "export": ("export",),
    "inspect_dataset": ("inspect",),
    "pipeline": (
        "generate",
        "align",
        "import_data",
        "data",
        "model",
        "augment",
        "ssl",
        "unpg",
        "train",
        "evaluate",
        "inspect",
        "tune",
        "stages",
    ),
}


def _client(uri: str) -> Any:
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own seven attempts take over two minutes, for every metric of a training whose server is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    require_extra("ray", "tracking", "mlflow")
    import logging

    from mlflow import MlflowClient

    # The first use of a sqlite file runs some thirty migrations, each a line nobody needs.
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def _check_sqlite(uri: str) -> None:
    """MLflow tries a file that is no database ten times over minutes; once is enough."""
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")


def _experiment(client: Any, uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return found.experiment_id
    location = None
    if uri.startswith("sqlite:///"):
        # The default would be ./mlruns of whoever comes first; artifacts belong beside their database.
        location = (Path(uri.removeprefix("sqlite:///")).absolute().parent / "mlartifacts" / name).as_uri()
    try:
        return client.create_experiment(name, artifact_location=location)
    except Exception:
        found = client.get_experiment_by_name(name)  # Another job may have been first.
        if found is None:
            raise
        return found.experiment_id


def _process_tags() -> dict[str, str]:
    return {f"{_PREFIX}{name}": value for name, value in this_process().items()}


def _process_of(tags: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(_PREFIX): value for name, value in tags.items()}


def _end_orphans(client: Any, experiment: str) -> None:
    """Runs whose process was killed cannot end themselves; the next job on that host does it for them."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        process = _process_of(run.data.tags)
        if on_this_host(process) and not is_running(process):
            client.set_terminated(run.info.run_id, "FAILED")


def _existing(client: Any, experiment: str, run_id: str) -> str | None:
    from mlflow.exceptions import MlflowException

    if run_id:
        with contextlib.suppress(MlflowException):
            info = client.get_run(run_id).info
            if info.experiment_id == experiment and info.lifecycle_stage == "active":
                return run_id
    return None


def _unfinished(client: Any, experiment: str, key: str) -> str | None:
    runs = client.search_runs([experiment], f"tags.`{_KEY}` = '{key}' and attributes.status = 'FAILED'", max_results=1)
    return runs[0].info.run_id if runs else None


def _log_params(client: Any, run_id: str, settings: Settings, job: str) -> None:
    from mlflow.entities import Param

    tree = settings.model_dump(mode="json")
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if (name == "tune" and job not in ("tune", "pipeline")) or (name in ("name", "output") and job == "trial"):
            continue  # It says nothing about this run; MLflow compares runs by what differs.
        if isinstance(value, dict):
            flat.update({f"{name}.{k}": v for k, v in value.items()})
        elif name != "stages":
            flat[name] = value
    params = [Param(k, str(v)[:6000]) for k, v in flat.items()]
    for begin in range(0, len(params), 100):
        client.log_batch(run_id, params=params[begin : begin + 100])
    client.log_text(run_id, json.dumps(tree, indent=2), "settings.json")
