"""Errors of jobs, and what a user is shown of any error."""

import errno


class JobError(RuntimeError):
    """A job that cannot do what it was asked; the message says what was wrong and what to do."""


def user_error(error: BaseException) -> BaseException | None:
    """The error, or one it was caused by, whose message tells the user what to do; None when a traceback is needed.

    Errors of Ray tasks and workers carry the original as their cause.
    """
    from facelib.tracking import TrackingError

    known = (JobError, TrackingError, FileNotFoundError, PermissionError, ImportError, ConnectionError)
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        # facelib raises ValueError, and kinds of it, for what a caller got wrong; libraries raise it for anything.
        ours = type(current) is ValueError or type(current).__module__.startswith("facelib")
        if isinstance(current, known) or (isinstance(current, ValueError) and ours):
            return current
        if isinstance(current, OSError) and current.errno == errno.ENOSPC:
            return current
        if type(current).__name__ == "ExecutionTimeoutError":
            first, *more = str(current).splitlines()
            waiting = "; ".join(line.removeprefix("  - ") for line in more if line.startswith("  - "))
            return JobError(
                f"{first} {waiting}. Is there room for the actors, and does storage answer? Where one step takes so "
                "long, raise ray.no_progress_minutes"
            )
        failures = getattr(current, "worker_failures", None) or {}
        inside = next((e for n in ("cause", "controller_failure") if (e := getattr(current, n, None))), None)
        current = inside or next(iter(failures.values()), None) or current.__cause__
    return None
