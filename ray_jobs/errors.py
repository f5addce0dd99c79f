"""Errors of jobs, and what a user is shown of any error."""

import contextlib
import errno
import logging
import os
from collections.abc import Iterator

RETRY_ADVICE = "\nFailed to apply UDF transform after "  # of Ray Data
TRACEBACK_VARIABLE = "FACELIB_TRACEBACK"  # set: all errors are shown with their tracebacks


class JobError(RuntimeError):
    """A job failed for a reason that the user can act on; the message says what was wrong and what to do."""


def user_error(error: BaseException) -> BaseException | None:
    """The error to show to the user: `error` or one of its causes whose message says what to do; None for a bug.

    Errors of Ray tasks, actors and training workers carry the original as their cause.
    """
    from facelib.tracking import TrackingError

    for current in _causes(error):
        _remove_retry_advice(current)
        if isinstance(current, (JobError, TrackingError, *_OPERATING_SYSTEM)):
            return current
        # facelib raises ValueError, and subclasses of it, for what a caller got wrong; libraries raise it for anything.
        if type(current) is ValueError or (isinstance(current, ValueError) and _is_ours(current)):
            return current
        if isinstance(current, OSError) and current.errno == errno.ENOSPC:
            return current
        if type(current).__name__ == "ExecutionTimeoutError":  # Ray Data: no progress for too long
            return JobError(_describe_stall(str(current)))
    return None


def one_line_error(error: BaseException) -> BaseException | None:
    """`user_error`, if it is shown in place of a traceback; None for a bug, and with FACELIB_TRACEBACK."""
    return None if os.environ.get(TRACEBACK_VARIABLE) else user_error(error)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Keep Ray Train from printing the traceback of an error of which the driver shows one line.

    Those of bugs, and all with FACELIB_TRACEBACK, are printed by the worker that they happened in.
    """
    try:
        yield
    except Exception as error:
        if one_line_error(error) is not None:
            logging.getLogger("ray.train").setLevel(logging.CRITICAL)
        raise


_OPERATING_SYSTEM = (FileNotFoundError, PermissionError, ImportError, ConnectionError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, from the outermost to the innermost."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        wrapped = next((e for n in ("cause", "controller_failure") if (e := getattr(current, n, None))), None)
        # An error of a task arrives as one that is of its class too, with a traceback as its text.
        if not isinstance(current, type(wrapped)):
            yield current
        failures = getattr(current, "worker_failures", None) or {}
        current = wrapped or next(iter(failures.values()), None) or current.__cause__


def _remove_retry_advice(error: BaseException) -> None:
    """Remove what Ray Data adds to every error of a function it maps: how to let it try again."""
    if error.args and isinstance(error.args[0], str):
        error.args = (error.args[0].partition(RETRY_ADVICE)[0], *error.args[1:])


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.split(".")[0] == "facelib"


def _describe_stall(text: str) -> str:
    first, *details = text.splitlines()
    waiting = "; ".join(line.removeprefix("  - ") for line in details if line.startswith("  - "))
    return (
        f"{first} {waiting}. Does the cluster have resources for the actors, and does storage respond? If one step "
        "takes that long, raise ray.no_progress_minutes"
    )
