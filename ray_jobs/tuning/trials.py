"""Trials on Ray Tune: how many at a time, what each does, and how what happens to it reaches the sweep.

Tune starts the trials' processes, restarts the ones that die and ends the ones that are stopped. What to try, whom to
stop and what is known is the sweep's (`ray_jobs.tuning.driver`), so Tune's own experiment state is thrown away.
"""

import contextlib
import json
import logging
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

import ray
import ray.tune
from ray.train import UserCallback
from ray.tune.callback import Callback
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.queue import Empty, Queue

from facelib.config import Settings
from facelib.data import Folder
from facelib.utils.process import return_memory
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, user_error
from ray_jobs.resources import cluster_nodes, trials_that_fit
from ray_jobs.training.callbacks import LOGGED
from ray_jobs.training.context import TrainingSpan
from ray_jobs.training.driver import fit, worker_resources
from ray_jobs.tuning.driver import TASK_NAME, Sweep

FAILURE, EPOCH = "failure", "epoch"


def run_trials(sweep: Sweep, kind: str) -> None:
    """Train all trials of a kind, as many at a time as fit on the cluster.

    Raises:
        JobError: not even one fits; or trial after trial fails.
    """
    slots = concurrency(sweep.settings)
    work = sweep.next_work(kind)
    if work is None:
        return
    resources = ray.tune.PlacementGroupFactory([_trial_resources(sweep.settings)])
    with tempfile.TemporaryDirectory() as scratch, _quiet_tune():
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_segment, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=SweepSearcher(sweep, kind, slots, work),
                scheduler=SweepScheduler(sweep),
                num_samples=-1,  # The asker says when it is over.
                # The next trial in the same process need not load PyTorch again.
                reuse_actors=sweep.tune.in_process,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=ray.tune.RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=ray.tune.FailureConfig(max_failures=sweep.tune.max_failures),
                callbacks=[SweepCallback(sweep)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except ray.tune.TuneError:
            # Tune knows an error of the sweep's own, raised while it was told of a result, only as text.
            raise sweep.error or JobError("Ray Tune ended the sweep; the same command continues") from None
    sweep.clean()


def concurrency(settings: Settings) -> int:
    """Trials at a time: as many as can reserve all they need, readers included, so that none waits for another.

    Raises:
        JobError: one trial alone does not fit, or fewer than `tune.concurrency`.
    """
    train, data, tune = settings.train, settings.data, settings.tune
    nodes = cluster_nodes()
    worker = worker_resources(settings)
    fitting = trials_that_fit(nodes, worker, train.workers, data.cpus_per_reader, data.readers + 1)
    if settings.ray.autoscaling:
        # Nodes come when trials wait for them; how many trials that shall be only the user can say.
        return tune.concurrency or max(fitting, 1)
    if fitting == 0:
        total = {name: sum(node.get(name, 0) for node in nodes) for name in worker}
        raise JobError(
            f"no trial fits on the cluster: train.workers={train.workers} of {_listed(worker)} each, with a reader of "
            f"data.cpus_per_reader={data.cpus_per_reader:g} CPU beside each, but there are {_listed(total)} on "
            f"{len(nodes)} nodes. Lower one of them; fractions are fine"
        )
    if tune.concurrency > fitting:
        raise JobError(
            f"tune.concurrency: {tune.concurrency} trials at a time, but only {fitting} fit on the cluster with "
            f"train.workers={train.workers} of {_listed(worker)} and {data.readers + 1} readers of "
            f"{data.cpus_per_reader:g} CPU each; 0 takes as many as fit"
        )
    return tune.concurrency or fitting


def train_segment(config: dict[str, Any]) -> None:
    """A trial's process: one part of it, by the same engine as any training.

    A mistake in the settings or a training that diverges ends the trial at once; whatever else kills the process is
    tried again by Tune and goes on from the last checkpoint.
    """
    # A stopped trial's thread ends at its next report; who takes over its process waits for that.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    task = json.loads(Folder(config["folder"]).read(TASK_NAME))
    settings = Settings.model_validate(task["settings"])
    configure_data(settings)
    span = TrainingSpan(task["warm_start_from"], task["stop_epoch"], task["in_process"])
    try:
        if span.in_process:
            fit(settings, task["method"], config["folder"], [ReportCallback(ray.tune.report)], span)
        else:
            fit_in_group(settings, task["method"], config["folder"], span)
    except Exception as error:
        found = user_error(error)
        if found is None:
            raise
        ray.tune.report({FAILURE: str(found)})
    finally:
        return_memory()  # The next trial may be trained in this process.


def fit_in_group(settings: Settings, method: str, uri: str, span: TrainingSpan) -> None:
    """Train in a worker group, from a thread beside this one, which passes on what the group's controller reports.

    Not by Tune's own callback for this: what is still in its queue when the trial's function returns blocks the trial
    for ever, which a driver that was busy for a moment is enough for.
    """
    reports = Queue(actor_options={"num_cpus": 0})
    failed: list[Exception] = []

    def training() -> None:
        try:
            fit(settings, method, uri, [ReportCallback(reports.put)], span)
        except Exception as error:
            failed.append(error)

    beside = threading.Thread(target=training, daemon=True)
    beside.start()
    running = True
    while running:
        running = beside.is_alive()  # Asked first: what it says before its end is in the queue then.
        with contextlib.suppress(Empty):
            while True:
                ray.tune.report(reports.get(timeout=1))
    if failed:
        raise failed[0]


class Adapter:
    """Something Tune is given that knows the sweep; Tune writes it into its own state, where the sweep has no place."""

    sweep: Sweep

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "sweep"}


class SweepSearcher(Adapter, Searcher):
    """Gives Tune what the sweep wants to be trained, never more at a time than fits."""

    def __init__(self, sweep: Sweep, kind: str, slots: int, first: tuple[int, int] | None) -> None:
        super().__init__()
        self.sweep, self.kind, self.slots, self.first = sweep, kind, slots, first

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A part of a trial; None: later; FINISHED: there will be no more."""
        work, self.first = self.first, None
        if work is None:
            if len(self.sweep.live) >= self.slots:
                return None
            work = self.sweep.next_work(self.kind)
        if work is None:
            return None if self.sweep.live else Searcher.FINISHED
        number, segment = work
        return {"number": number, "part": segment, "folder": self.sweep.segment_uri(number, segment)}

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """The sweep knows all that."""
        return True

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """See `Teller`, which is told of the trial itself."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's own files are its state."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""


class SweepScheduler(Adapter, FIFOScheduler):
    """Tells the sweep of every epoch, and Tune when the sweep wants a trial stopped."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self.sweep = sweep

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """One report of a trial."""
        number = trial.config["number"]
        if FAILURE in result:
            self.sweep.failures[number] = result[FAILURE]
        elif EPOCH in result:
            logged = {k.removeprefix(f"{LOGGED}/"): v for k, v in result.items() if k.startswith(f"{LOGGED}/")}
            with _noted(self.sweep):
                if self.sweep.report(number, result[EPOCH], logged):
                    return TrialScheduler.STOP
        return TrialScheduler.CONTINUE


class SweepCallback(Adapter, Callback):
    """Tells the sweep of the end of a trial, whichever it was."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It came to its end, or was stopped."""
        with _noted(self.sweep):
            self.sweep.end_segment(trial.config["number"], trial.config["part"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died; Tune starts another."""
        print(f"trial {trial.config['number']}: its process died, it is started again", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It failed more often than it may."""
        error = trial.get_pickled_error()
        found = (user_error(error) or error) if error is not None else None
        lines = [line for line in str(found).splitlines() if line.strip()] or ["unknown error"]
        with _noted(self.sweep):
            self.sweep.end_segment(trial.config["number"], trial.config["part"], f"{type(found).__name__}: {lines[-1]}")


class ReportCallback(UserCallback):
    """Hands on what was measured of an epoch: to Tune, or from Ray Train's controller to the trial that tells Tune."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.tell = tell

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """One report of all ranks; those inside an epoch say nothing."""
        if LOGGED in metrics[0]:
            self.tell(of_epoch(metrics[0]))


def of_epoch(reported: dict[str, Any]) -> dict[str, Any]:
    """What the sweep wants of an epoch's report, flat, as Tune hands it on."""
    return {EPOCH: reported["epoch"], **{f"{LOGGED}/{name}": value for name, value in reported[LOGGED].items()}}


@contextlib.contextmanager
def _noted(sweep: Sweep) -> Iterator[None]:
    """Keep an error of the sweep's own before Tune makes text of it."""
    try:
        yield
    except Exception as error:
        sweep.error = sweep.error or error
        raise


def _trial_resources(settings: Settings) -> dict[str, float]:
    """What Tune reserves for a trial's process.

    A process that only waits for its worker group reserves next to nothing, on the head node: were it a CPU, trials
    would hold what their own workers wait for.
    """
    if settings.tune.in_process:
        return worker_resources(settings)
    return {"node:__internal_head__": 0.001}


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without its tables, log files and signal handler, for the length of the block."""
    wanted = {
        "RAY_AIR_NEW_OUTPUT": "0",  # The old one is silent when told to be.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",
        "TUNE_WARN_THRESHOLD_S": "60",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # What a trial fails of is said by the sweep.
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
