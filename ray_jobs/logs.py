"""Log records of facelib and ray_jobs on the console, as text or JSON lines, in the driver and in every worker.

Progress and result tables are printed; everything else goes through `logging`.
"""

import json
import logging
import os
import sys

from ray_jobs.errors import TRACEBACK_VARIABLE

PACKAGES = ("facelib", "ray_jobs", "__main__")
LEVEL_VARIABLE, FORMAT_VARIABLE = "FACELIB_LOG_LEVEL", "FACELIB_LOG_FORMAT"


def configure_logging(level: str = "info", style: str = "text") -> None:
    """Send this process's log records to standard error, and let its Ray workers do the same.

    Args:
        level: lowest level shown of facelib and ray_jobs: debug, info, warning or error. Of other packages warnings
            and errors are shown.
        style: `text`, or `json` for one JSON object per line.
    """
    os.environ[LEVEL_VARIABLE], os.environ[FORMAT_VARIABLE] = level, style
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    handler.addFilter(_is_shown)
    root = logging.getLogger()
    for old in root.handlers[:]:
        if isinstance(old.formatter, JsonFormatter | TextFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    for package in PACKAGES:
        logging.getLogger(package).setLevel(level.upper())


def worker_environment() -> dict[str, str]:
    """Environment variables that carry what the driver shows to workers on other nodes."""
    names = (LEVEL_VARIABLE, FORMAT_VARIABLE, TRACEBACK_VARIABLE)
    return {name: os.environ[name] for name in names if name in os.environ}


def configure_worker_logging() -> None:
    """Log as the driver does, but information only with level `debug`: Ray logs every step of starting up."""
    level = os.environ.get(LEVEL_VARIABLE, "warning")
    configure_logging(level, os.environ.get(FORMAT_VARIABLE, "text"))
    if level != "debug":
        logging.disable(logging.INFO)


class TextFormatter(logging.Formatter):
    """`warning: message`; plain messages for information."""

    def format(self, record: logging.LogRecord) -> str:
        message = super().format(record)
        return message if record.levelno == logging.INFO else f"{record.levelname.lower()}: {message}"


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (ISO 8601), level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] in PACKAGES or record.levelno >= logging.WARNING
