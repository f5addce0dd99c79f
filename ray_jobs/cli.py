"""A job as a Python function and as a command.

A job module defines `validate(settings, upcoming=())`, which checks the settings before anything starts, and a function
`job(settings, run)` under the decorator `@job`. Importing a job module is light; what it runs is imported in it.
"""

import contextlib
import functools
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from facelib.config import Settings, SettingsError, parse_command_line, split_logging_flags
from facelib.utils.background import in_background
from facelib.utils.process import look_for_garbage_less
from ray_jobs.errors import JobError, one_line_error, user_error
from ray_jobs.logs import configure_logging
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.tracking import Run

Work = Callable[[Settings, Any], JobResult]
Validate = Callable[[Settings], None]


def job(work: Work) -> Callable[..., JobResult]:
    """Make `work(settings, run)` callable as `work(settings)`.

    Called with settings alone it validates them, joins or starts Ray (an initialized Ray is used as it is), opens an
    MLflow run of its own and ends it. With a `run`, as in a pipeline's stages, it only does its work.

    Raises (the returned function):
        SettingsError: a setting that cannot be used; the message names it.
        JobError: the job failed for a reason that the user can act on. Anything else is a bug and is raised as it is.
    """

    @functools.wraps(work)
    def call(settings: Settings, run: "Run | None" = None) -> JobResult:
        if run is not None:
            return work(settings, run)
        try:
            settings = _with_generator(settings)
            _validate_of(work)(settings)
            with _open(settings, work.__name__, work.__globals__["__doc__"] or "") as opened:
                return work(settings, opened)
        except Exception as error:
            shown = user_error(error)
            if shown is None or isinstance(shown, JobError | SettingsError):
                raise shown or error from None
            raise JobError(str(shown)) from error

    return call


def main(function: Callable[..., JobResult], argv: Sequence[str] | None = None) -> None:
    """Run a job as a command: `if __name__ == "__main__": main(generate)`.

    Args:
        function: decorated with `@job`.
        argv: flags; by default those of the process.
    """
    look_for_garbage_less()
    work: Any = function.__wrapped__  # type: ignore[attr-defined]
    try:
        arguments, level, style = split_logging_flags(argv)
    except SettingsError as error:
        print(f"{work.__name__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    configure_logging(level, style)
    run_job(work.__name__, work, work.__globals__["__doc__"] or "", arguments, _validate_of(work))


def run_job(
    name: str, work: Work, description: str, argv: Sequence[str] | None = None, validate: Validate | None = None
) -> None:
    """Run `work(settings, run)` as the command `name`.

    The exit status is 0 only when the job did what it says, and the last line then names what was written; 2 for
    settings that cannot be used, 1 for a job that failed, 128 + signal number for one that was stopped.
    """
    settings = parse_command_line(name, description.strip(), argv)
    try:
        settings = _with_generator(settings)
        if validate is not None:
            validate(settings)
    except SettingsError as error:
        print(f"{name}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Exception as error:
        _exit_with(name, error)
    from ray_jobs.progress import format_seconds

    started = time.monotonic()
    signals = StopSignals()
    try:
        with _open(settings, name, description) as run:
            result = work(settings, run)
            where = run.where
    except KeyboardInterrupt:
        print(f"{name}: stopped by {signals.received.name}; the same command continues", file=sys.stderr)
        raise SystemExit(128 + signals.received) from None
    except Exception as error:
        _exit_with(name, error)
    print(f"MLflow: {where}")
    print(f"{name}: {format_seconds(time.monotonic() - started)}, wrote {result}", flush=True)


class StopSignals:
    """Lets SIGTERM and SIGHUP interrupt as Ctrl-C does, from now to the end of the process.

    `ray job stop` and schedulers send SIGTERM, a terminal that is closed SIGHUP: the job leaves through its context
    managers, so that its run ends as FAILED and its processes end.

    Attributes:
        received: the signal that interrupted.
    """

    def __init__(self) -> None:
        self.received = signal.SIGINT
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, _: object) -> None:
        self.received = signal.Signals(number)
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)  # A second one would interrupt the end of the run.
        # Not SystemExit: Ray replaces one that arrives while it waits by its own, with status 1.
        raise KeyboardInterrupt


@contextlib.contextmanager
def _open(settings: Settings, name: str, description: str) -> Iterator["Run"]:
    """Ray and an MLflow run, started at the same time, because each mostly waits."""
    from facelib.tracking import Run, check_store
    from ray_jobs.cluster import check_cluster, cluster

    check_store(settings.tracking)
    check_cluster(settings.ray)
    opening = in_background(lambda: Run.open(settings, name, about=description))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(cluster(settings))
        except BaseException:
            with opening.result():
                raise
        yield stack.enter_context(opening.result())


def _with_generator(settings: Settings) -> Settings:
    """The settings with a generator chosen where they leave the choice."""
    if settings.generate.generator != "auto":
        return settings
    from ray_jobs.datasets.generator_choice import choose_generator

    return choose_generator(settings)


def _exit_with(name: str, error: Exception) -> NoReturn:
    """End the process with status 1 and the line that a user is shown of an error; a bug is raised as it is."""
    shown = one_line_error(error)
    if shown is None:
        raise error
    print(f"{name}: {shown}", file=sys.stderr)
    raise SystemExit(1) from None


def _validate_of(work: Work) -> Validate:
    """`validate` of the module that defines a job."""
    return work.__globals__["validate"]  # type: ignore[attr-defined, no-any-return]
