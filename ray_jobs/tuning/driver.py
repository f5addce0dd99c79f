"""Runs a sweep's trials on Ray Tune.

Tune starts the trials' processes, restarts those that die and stops those that the sweep wants stopped. What to try,
which trial to stop and all results are kept by the sweep (`ray_jobs.tuning.state`). Tune's experiment folder, a new one
for each start, is a view of it for Tune's own tools: nothing is read from it.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import ray.tune

from ray_jobs.errors import JobError
from ray_jobs.tuning.callbacks import SweepCallback, build_callbacks
from ray_jobs.tuning.schedulers import SweepScheduler
from ray_jobs.tuning.searchers import SweepSearcher
from ray_jobs.tuning.state import Sweep
from ray_jobs.tuning.trainable import concurrency, train_segment, trial_resources


def run_trials(sweep: Sweep, kind: str) -> None:
    """Train all trials of a kind (search, repeat or final), as many at a time as fit on the cluster.

    Raises:
        JobError: not even one trial fits, or the first trials all fail.
    """
    slots = concurrency(sweep.settings)
    first = sweep.next_segment(kind)
    if first is None:
        return
    resources = ray.tune.PlacementGroupFactory([trial_resources(sweep.settings)])
    with _quiet_tune():
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_segment, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=SweepSearcher(sweep, kind, slots, first),
                scheduler=SweepScheduler(sweep),
                num_samples=-1,  # The searcher ends the search.
                # The next trial in the same process does not import PyTorch again.
                reuse_actors=sweep.tune.in_process,
                trial_dirname_creator=trial_dirname,
            ),
            run_config=ray.tune.RunConfig(
                name=experiment_name(sweep, kind),
                storage_path=f"{sweep.folder.uri}/tune",
                failure_config=ray.tune.FailureConfig(max_failures=sweep.tune.max_failures),
                callbacks=[SweepCallback(sweep), *build_callbacks(sweep.tune)],
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        except ray.tune.TuneError as error:
            # Tune passes on errors raised in the sweep's own code as text only; raise the original.
            raise sweep.error or JobError(_ended(error)) from None
    sweep.delete_checkpoints()


def experiment_name(sweep: Sweep, kind: str) -> str:
    """Name of Tune's experiment: when the sweep was started, and the kind of trials unless they are the search's."""
    return sweep.started_at if kind == "search" else f"{sweep.started_at}_{kind}"


def trial_dirname(trial: Any) -> str:
    """Name of a trial's folder in Tune's experiment: its number, and its segment if that is not the first."""
    segment = trial.config["segment"]
    return f"{trial.config['number']:04d}" + (f"_segment-{segment}" if segment else "")


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without its tables and signal handler inside the block."""
    variables = {
        "RAY_AIR_NEW_OUTPUT": "0",  # The old output respects verbose=0.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_WARN_THRESHOLD_S": "60",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # The sweep prints why a trial failed.
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ended(error: Exception) -> str:
    """What Tune says of its end, in a line; a callback's own error is the last of it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else "no reason given"
    return f"Ray Tune ended the sweep ({reason}); run the same command to continue"
