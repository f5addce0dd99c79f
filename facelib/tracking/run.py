"""One MLflow run: opened or taken up again, logged to, ended."""

import contextlib
import json
import logging
import math
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from facelib.config import Settings
from facelib.tracking.description import parameters, run_note, source_tags
from facelib.tracking.store import TrackingError, check_store, mlflow_client, open_experiment, store_error, tracking_uri
from facelib.utils.process import is_running, on_this_host, this_process

logger = logging.getLogger(__name__)

_KEY, _ERROR, _PREFIX = "facelib.key", "facelib.error", "facelib."
_away: dict[str, float] = {}  # store → clock until which it is sent no points, because it did not take the last ones


class Run:
    """One MLflow run. Use `Run.open` in a driver (a context manager that ends it) and `Run.attach` beside it."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id
        self.client = mlflow_client(uri)
        self._monitor: Any = None
        self._lost = False

    @classmethod
    def attach(cls, uri: str, run_id: str) -> "Run":
        """Log to a run that somebody else opened and will end."""
        return cls(uri, run_id)

    @classmethod
    def open(
        cls, settings: Settings, job: str, name: str = "", parent: str = "", run_id: str = "", about: str = ""
    ) -> "Run":
        """Open the run of `job`, or take up again the one that an earlier, unfinished process of the same job left.

        Args:
            name: of the run; by default of the settings and the job. A number tells runs of one name apart.
            parent: id of the run this one is shown under.
            run_id: the run to take up, however it ended; one that is no longer there is begun anew.
            about: what the job does, for the run's note.

        Raises:
            TrackingError: the store cannot be reached, or the experiment was deleted.
        """
        check_store(settings.tracking)
        uri = tracking_uri(settings.tracking)
        # The key stands between apostrophes in MLflow's search, which knows no escape for one.
        place = settings.path("").replace("'", "%27")
        key = f"{job}:{place}:{settings.fingerprint(*_SECTIONS.get(job, ()))}"
        try:
            client = mlflow_client(uri)
            experiment = open_experiment(client, settings.tracking)
            _end_orphans(client, experiment)
            known = _existing(client, experiment, run_id) or _unfinished(client, experiment, key)
            now = {**_process_tags(), **source_tags(job), **({"mlflow.parentRunId": parent} if parent else {})}
            if known is None:
                # With all its tags at once: whoever is killed after this leaves a run that can be found and ended.
                tags = {"mlflow.runName": _numbered(client, experiment, name or f"{settings.name}/{job}"), _KEY: key,
                        "facelib.job": job, "mlflow.note.content": run_note(settings, job, about), **now}  # fmt: skip
                known = client.create_run(experiment, tags=tags).info.run_id
            for tag, value in now.items():
                client.set_tag(known, tag, value)
            data = client.get_run(known).data
            if _ERROR in data.tags:
                client.delete_tag(known, _ERROR)
            if not data.params:
                _log_params(client, known, settings, job)
            client.update_run(known, status="RUNNING")
        except TrackingError:
            raise
        except Exception as error:
            raise store_error(settings.tracking, error) from error
        run = cls(uri, known)
        if settings.tracking.system_metrics:
            run._start_monitor()
        return run

    @property
    def where(self) -> str:
        """The command or the page that shows the run."""
        if self.uri.startswith("http"):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            return f"{self.uri.rstrip('/')}/#/experiments/{experiment}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {shlex.quote(self.uri)}"

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

    def log_epoch(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Log an epoch of a training; MLflow shows a section for each first part of a name (see `epoch_group`)."""
        self.log_metrics({epoch_group(name): number for name, number in metrics.items()}, step=epoch)

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

    def log_dataset(self, name: str, uri: str, digest: str, role: str, **counts: int) -> None:
        """Say which dataset the run read.

        Args:
            name: as tables and messages call it.
            uri: where it is.
            digest: hash that changes with its content; its first 8 characters are logged, as many as MLflow's own have.
            role: `train`, `validation` or `test`.
            counts: numbers of images, identities, pairs, ….
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": uri})
        dataset = Dataset(name, digest[:8], "facelib", source, profile=json.dumps(counts))
        with self._tolerant(f"dataset {name}"):
            self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", role)])])

    def log_model(self, source: str | Path, name: str, kind: str, register: str = "", **params: object) -> None:
        """Log a file or a folder as a model of this run.

        Args:
            source: what is uploaded.
            name: of the model.
            kind: what MLflow shows as its type.
            register: registered model of which this becomes a new version; empty: none.
            params: what is shown beside the model.
        """
        from mlflow.entities import LoggedModelOutput

        with self._tolerant(f"model {name}"):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            shown = {key: str(value) for key, value in params.items()}
            name = re.sub(r"[/:.%\"']", "-", name)  # as MLflow wants it
            model = self.client.create_logged_model(experiment, name, self.run_id, params=shown, model_type=kind)
            upload = self.client.log_model_artifacts if Path(source).is_dir() else self.client.log_model_artifact
            upload(model.model_id, str(source))
            self.client.finalize_logged_model(model.model_id, "READY")
            self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, 0)])
            if register:
                self._register(register, model)

    def _register(self, name: str, model: Any) -> None:
        """Make a logged model the newest version of a registered one."""
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # It exists already.
            self.client.create_registered_model(name)
        version = self.client.create_model_version(name, model.artifact_location, self.run_id, model_id=model.model_id)
        # MLflow's pages link a logged model to the registered one by this tag, which `mlflow.register_model` sets too.
        versions = json.dumps([{"name": name, "version": version.version}])
        self.client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": versions})
        logger.info("MLflow: models:/%s/%s", name, version.version)

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


def epoch_group(name: str) -> str:
    """A metric of an epoch as it is logged: `train/loss`, `val/heldout/auc`. A name with a / is that of a set."""
    return f"val/{name}" if "/" in name else f"train/{name}"


# What makes a job's run "the same run" when it is started again.
_SECTIONS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", "align"),
    "import_data": ("import_data", "align", "data"),
    "export_images": ("export_images",),
    "train_ssl": ("generate", "align", "data", "model", "augment", "ssl", "train"),
    "train_unpg": ("generate", "align", "data", "model", "augment", "unpg", "train"),
    "tune": ("generate", "align", "data", "model", "augment", "ssl", "unpg", "train", "tune"),
    "whiten": ("whiten",),
    "evaluate": ("evaluate",),
    "embed": ("embed", "align"),
    "export": ("export",),
    "inspect_dataset": ("inspect",),
    "pipeline": (
        "generate",
        "align",
        "import_data",
        "export_images",
        "data",
        "model",
        "augment",
        "ssl",
        "unpg",
        "train",
        "whiten",
        "evaluate",
        "inspect",
        "tune",
        "stages",
    ),
}


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


def _numbered(client: Any, experiment: str, name: str) -> str:
    """`name`, with a number if the experiment has runs of that name."""
    if "'" in name:
        return name
    runs = client.search_runs([experiment], f"attributes.run_name LIKE '{name}%'", max_results=1000)
    numbers = [1] * sum(run.info.run_name == name for run in runs)
    numbers += [int(m[1]) for run in runs if (m := re.fullmatch(re.escape(name) + r" #(\d+)", run.info.run_name))]
    return f"{name} #{max(numbers) + 1}" if numbers else name


def _log_params(client: Any, run_id: str, settings: Settings, job: str) -> None:
    """The parameters that MLflow compares runs by; all settings are an artifact."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(k, v[:6000]) for k, v in parameters(settings, job).items()])
    client.log_text(run_id, json.dumps(settings.model_dump(mode="json"), indent=2), "settings.json")
