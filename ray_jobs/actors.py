"""Actors of jobs: rows streamed through stages of actors, a pool that serves calls, and the setup of an actor process.

`stream_rows` is for data that lives in storage (identity ranges, file names, row groups): Ray Data schedules it.
`ActorPool` is for data that the driver holds (encoded images of evaluation sets): Ray Data copies all of its input
into the object store before it starts, the pool sends only what is in flight.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, cast

from facelib.config import Settings
from facelib.utils.process import keep_freed_memory
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, one_line_error, user_error
from ray_jobs.resources import ActorRequest, ActorSettings, check_resources

MAX_BLOCKS = 10_000  # Ray Data schedules block by block; more blocks cost more driver time than they balance load.
MAX_RESTARTS = 3  # Of a pool's actor, and retries of its call: one that fails more often has a reason to.


GroupFunction = Callable[[list[dict[str, Any]]], dict[str, Any]]


@dataclass(frozen=True)
class ActorStage:
    """A callable class that maps one row to another in a fixed number of actors.

    Attributes:
        actor_class: instances are called with a row (dict of str to plain values or bytes) and return a row.
        args: constructor arguments.
        section: name of the settings section, for messages.
        cfg: the section: number of actors, and the CPUs and GPUs that each reserves.
    """

    actor_class: type
    args: tuple[Any, ...]
    section: str
    cfg: ActorSettings


@dataclass(frozen=True)
class GroupStage:
    """A last stage that maps groups of consecutive rows to one row each, in tasks on any node.

    Attributes:
        function: called with the rows of a group, in their order; returns a row. Pickled once.
        size: rows of a group; the number of all rows must be a multiple of it.
    """

    function: GroupFunction
    size: int


@dataclass
class _GroupTasks:
    """What `check_resources` needs to know of tasks that write: input and output, hardly any CPU."""

    actors: int = 1
    cpus_per_actor: float = 0.1
    gpus_per_actor: float = 0


def stream_rows(
    rows: Sequence[dict[str, Any]],
    stages: Sequence[ActorStage],
    settings: Settings,
    groups: GroupStage | None = None,
) -> Iterator[dict[str, Any]]:
    """Map `rows` through all stages with Ray Data; results come in the order they are finished.

    With `groups`, the order of rows is kept through all stages, and each result is that of a group; its rows never
    pass through this process.

    Stages start in order: all actors of the earlier ones and at least one of the last must fit on the cluster.

    Raises:
        JobError: the cluster is too small for that, and not `ray.autoscaling`.
    """
    import ray

    if not rows:
        return
    configure_data(settings)
    *earlier, last = [ActorRequest(s.section, s.cfg, min(s.cfg.actors, len(rows))) for s in stages]
    tasks = [ActorRequest("tasks that write", _GroupTasks(), 1)] if groups else []
    check_resources(settings.ray.autoscaling, *earlier, last._replace(count=1), *tasks)
    stream: ray.data.Dataset = ray.data.from_items(list(rows), override_num_blocks=_blocks(len(rows), groups))
    for stage in stages:
        least, most = stage.cfg.actors, max(stage.cfg.actors, getattr(stage.cfg, "max_actors", None) or 0)
        stream = stream.map(
            _with_file_names(stage.actor_class),
            fn_constructor_args=stage.args,
            compute=ray.data.ActorPoolStrategy(min_size=min(least, len(rows)), max_size=min(most, len(rows))),
            num_cpus=stage.cfg.cpus_per_actor,
            num_gpus=stage.cfg.gpus_per_actor,
        )
    if groups:
        stream.context.execution_options.preserve_order = True
        stream = stream.map_batches(
            cast(Any, _call_with_rows),
            fn_kwargs={"function": groups.function},
            # Not one for each group that is ready: each is a process to start, and they need hardly any CPU.
            compute=ray.data.TaskPoolStrategy(size=min(2 * most, len(rows) // groups.size)),
            batch_size=groups.size,
            num_cpus=_GroupTasks().cpus_per_actor,
        )
    failure: BaseException | None = None
    try:
        yield from stream.iter_rows()
    except KeyboardInterrupt:
        failure = KeyboardInterrupt()
    except Exception as error:
        failure = one_line_error(error)
        if failure is None:
            raise
    if failure is not None:
        # Not from where it was caught: what Ray Data raises holds the stream's actors by its traceback, and a notebook
        # keeps the last one. An actor gives back its CPUs when Python finds the last reference to it to be garbage.
        del stream
        raise failure


def _blocks(rows: int, groups: GroupStage | None) -> int:
    """Number of blocks of equal size; with groups, no block has rows of two."""
    if not groups:
        return min(rows, MAX_BLOCKS)
    assert rows % groups.size == 0, "rows must be a multiple of the group's size"
    divisors = (size for size in range(1, groups.size + 1) if groups.size % size == 0)
    return next((rows // size for size in divisors if rows // size <= MAX_BLOCKS), rows // groups.size)


def _with_file_names(actor_class: Any) -> type:
    """The class, with calls whose errors keep their file names (`_keep_file_names`)."""

    class Actor(actor_class):  # type: ignore[misc]
        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            with _keep_file_names():
                return cast(dict[str, Any], super().__call__(row))

    Actor.__name__ = Actor.__qualname__ = actor_class.__name__  # in the names of processes, and in Ray's progress
    return Actor


def _call_with_rows(batch: dict[str, Any], function: GroupFunction) -> dict[str, Any]:
    """A batch of Ray Data, an array for each column, as the rows of one group."""
    rows = [dict(zip(batch, values)) for values in zip(*(column.tolist() for column in batch.values()))]
    with _keep_file_names():
        return {name: [value] for name, value in function(rows).items()}


@contextlib.contextmanager
def _keep_file_names() -> Iterator[None]:
    """Raise an error of a file as one whose only argument is its message.

    Ray Data adds its advice on retries to an error's arguments, and a third one of an OSError is its file's name.
    """
    try:
        yield
    except OSError as error:
        if user_error(error) is None:
            raise
        raise JobError(str(error)) from error


class ActorPool:
    """A fixed number of actors that serve calls, as a context manager; actors end with the block.

    An actor that dies is restarted and its calls are repeated, at most `MAX_RESTARTS` times.

    Args:
        actor_class: class of the actors.
        args: constructor arguments.
        request: settings section and number of actors.
        autoscaling: the cluster grows on demand: wait for actors that do not fit now.
        concurrency: calls that one actor runs in threads at the same time.

    Raises:
        JobError: the actors do not fit on the cluster.
    """

    def __init__(
        self,
        actor_class: type,
        args: tuple[Any, ...],
        request: ActorRequest,
        autoscaling: bool = False,
        concurrency: int = 1,
    ) -> None:
        import ray

        check_resources(autoscaling, request)
        self.concurrency = concurrency
        options: dict[str, Any] = {
            "num_cpus": request.cfg.cpus_per_actor,
            "num_gpus": request.cfg.gpus_per_actor,
            "max_concurrency": concurrency,
            "max_restarts": MAX_RESTARTS,
            "max_task_retries": MAX_RESTARTS,
        }
        remote_class: Any = ray.remote(**options)(actor_class)
        self.actors = [remote_class.remote(*args) for _ in range(request.count)]

    def map(self, method: str, calls: Iterable[tuple[Any, ...]]) -> Iterator[tuple[int, Any]]:
        """Call `method` with each tuple of arguments; yields (number of the call, result) as calls finish.

        `calls` is consumed lazily: no more than `concurrency` calls per actor are in flight, and whichever actor
        finishes one receives the next. Actors' exceptions are raised here.
        """
        import ray

        pending = enumerate(calls)
        in_flight: dict[Any, tuple[int, Any]] = {}

        def submit(actor: Any) -> None:
            for number, arguments in pending:
                in_flight[getattr(actor, method).remote(*arguments)] = number, actor
                return

        for _ in range(self.concurrency):
            for actor in self.actors:
                submit(actor)
        while in_flight:
            (finished,), _ = ray.wait(list(in_flight), num_returns=1)
            number, actor = in_flight.pop(finished)
            submit(actor)
            yield number, ray.get(finished)

    def __enter__(self) -> "ActorPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        for actor in self.actors:
            ray.kill(actor)


def device_options(options: dict[str, Any], gpus: float) -> dict[str, Any]:
    """Options of a generator or detector, with `device` added where its actors reserve `gpus` each."""
    return {"device": "cuda", **options} if gpus > 0 else dict(options)


def prepare_actor_process() -> None:
    """One thread for each library, as actors are the parallelism; and what was freed is used again."""
    import cv2

    keep_freed_memory()
    cv2.setNumThreads(1)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
