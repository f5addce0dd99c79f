"""The tracking store: where it is, whether it answers, and the experiment that runs go to."""

import contextlib
import http.client
import logging
import os
import socket
import sqlite3
import ssl
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from facelib.config import TrackingSettings, home_folder
from facelib.utils.background import in_background
from facelib.utils.optional import require_extra

ARTIFACTS = "mlartifacts"  # folder of artifacts, beside a sqlite file
_SQLITE = "sqlite:///"
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Where a store keeps absolute paths of artifacts.
_PATH_COLUMNS = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip


class TrackingError(RuntimeError):
    """The tracking store cannot be used; the message names its address and where the address comes from."""


def tracking_uri(settings: TrackingSettings) -> str:
    """The URI runs go to: the setting, else MLFLOW_TRACKING_URI, else a sqlite file in <FACELIB_HOME>/runs."""
    if settings.uri or os.environ.get("MLFLOW_TRACKING_URI"):
        return settings.uri or os.environ["MLFLOW_TRACKING_URI"]
    folder = home_folder() / "runs"
    folder.mkdir(parents=True, exist_ok=True)
    return f"{_SQLITE}{folder}/mlflow.db"


def store_error(settings: TrackingSettings, reason: object) -> TrackingError:
    """The error of a store that cannot be used, with its address and the setting or variable that names it."""
    from_environment = not settings.uri and os.environ.get("MLFLOW_TRACKING_URI")
    origin = "MLFLOW_TRACKING_URI, in the environment: " if from_environment else "tracking.uri="
    return TrackingError(f"{origin}{tracking_uri(settings)}: MLflow cannot be used ({reason})")


def check_store(settings: TrackingSettings) -> None:
    """Ask whether the store is there: a file that is a database, or a server that answers.

    Raises:
        TrackingError: it is not, or did not answer within `tracking.timeout`.
    """
    try:
        in_background(lambda: _ask(tracking_uri(settings), settings.timeout)).result(settings.timeout)
    except TimeoutError:
        raise store_error(
            settings, f"no answer within {settings.timeout:g} s; is it running? tracking.timeout allows longer"
        ) from None
    except (OSError, sqlite3.Error, http.client.HTTPException) as error:
        raise store_error(settings, getattr(error, "reason", error)) from None


def _ask(uri: str, seconds: float) -> None:
    if uri.startswith(_SQLITE):
        if "/" in uri.partition("?")[2]:  # MLflow and SQLAlchemy would read the rest of the path as options.
            raise OSError("a folder on the way has a ? in its name; set FACELIB_HOME or tracking.uri to another place")
        # MLflow tries a file that is no database ten times over minutes; once is enough.
        path = sqlite_path(uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA schema_version")
        return
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        # Any answer will do: one behind a login is MLflow's to deal with, and so are certificates.
        try:
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=seconds).close()
        except urllib.error.HTTPError:
            return
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ssl.SSLError):
                raise
        return
    port = parts.port or _PORTS.get(parts.scheme.split("+")[0])
    if parts.hostname and port:
        socket.create_connection((parts.hostname, port), timeout=seconds).close()


def sqlite_path(uri: str) -> Path:
    """The file of a sqlite URI."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute()


def mlflow_client(uri: str) -> Any:
    """An `MlflowClient` without telemetry, endless retries and a line for each migration."""
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # MLflow's own seven attempts take over two minutes, for every metric of a training whose server is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    require_extra("ray", "tracking", "mlflow")
    from mlflow import MlflowClient

    # The first use of a sqlite file runs some thirty migrations, each a line nobody needs.
    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def open_experiment(client: Any, settings: TrackingSettings) -> str:
    """Id of the experiment `tracking.experiment`, made if it is new.

    In a sqlite store its artifacts are beside the file, also after the folder was copied or moved.

    Raises:
        TrackingError: the experiment was deleted.
    """
    uri, name = tracking_uri(settings), settings.experiment
    local = uri.startswith(_SQLITE)
    found = client.get_experiment_by_name(name)
    if found is None:
        # The default would be ./mlruns of whoever comes first.
        location = _artifact_folder(sqlite_path(uri), name).as_uri() if local else None
        try:
            # MLflow's pages guess the kind from what is logged, and show traces of language models until they know.
            made = client.create_experiment(
                name, artifact_location=location, tags={"mlflow.experimentKind": "custom_model_development"}
            )
            return str(made)
        except Exception:
            found = client.get_experiment_by_name(name)  # Another job may have been first.
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise store_error(
            settings,
            f"tracking.experiment={name}: the experiment was deleted. Restore it (MLFLOW_TRACKING_URI='{uri}' mlflow "
            f"experiments restore --experiment-id {found.experiment_id}), or set tracking.experiment to another name",
        )
    if "mlflow.experimentKind" not in found.tags:
        client.set_experiment_tag(found.experiment_id, "mlflow.experimentKind", "custom_model_development")
    if local:
        _follow_moved_folder(sqlite_path(uri), found.artifact_location)
    return str(found.experiment_id)


def _artifact_folder(database: Path, experiment: str) -> Path:
    """Below the database's folder, whatever the experiment is called (`/team/faces`, `../x`)."""
    parts = [part for part in PurePosixPath(experiment).parts if part not in ("/", "..")]
    return database.parent.joinpath(ARTIFACTS, *parts)


def _follow_moved_folder(database: Path, location: str) -> None:
    """Change the stored paths of artifacts where the folder of database and artifacts is another than it was.

    MLflow stores absolute paths: after a copy or a move it would write to the old folder, or fail to.
    """
    old, separator, _ = location.partition(f"/{ARTIFACTS}/")
    new = database.parent.as_uri()
    if not separator or not old.startswith("file://") or old == new or _same_folder(old, new):
        return
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in _PATH_COLUMNS:
            if connection.execute(f"SELECT 1 FROM pragma_table_info('{table}') WHERE name = '{column}'").fetchone():
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old) + 1 + len(ARTIFACTS), f"{old}/{ARTIFACTS}"),
                )


def _same_folder(first: str, second: str) -> bool:
    """Whether two file URIs are one folder, for instance through a link."""
    with contextlib.suppress(OSError):
        return os.path.samefile(*(unquote(urlsplit(uri).path) for uri in (first, second)))
    return False
