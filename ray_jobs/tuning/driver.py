"""Runs a sweep's trials on Ray Tune.

Tune starts the trials' processes, restarts those that die and stops those that the sweep wants stopped. What to try,
which trial to stop and all results are kept by the sweep (`ray_jobs.tuning.state`), so Tune's own experiment state is
thrown away.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator

import ray.tune

from ray_jobs.errors import JobError
from ray_jobs.tuning.callbacks import SweepCallback
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
    with tempfile.TemporaryDirectory() as scratch, _quiet_tune():
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(train_segment, resources),
            tune_config=ray.tune.TuneConfig(
                search_alg=SweepSearcher(sweep, kind, slots, first),
                scheduler=SweepScheduler(sweep),
                num_samples=-1,  # The searcher ends the search.
                # The next trial in the same process does not import PyTorch again.
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
            # Tune passes on errors raised in the sweep's own code as text only; raise the original.
            raise sweep.error or JobError("Ray Tune ended the sweep; run the same command to continue") from None
    sweep.delete_checkpoints()


@contextlib.contextmanager
def _quiet_tune() -> Iterator[None]:
    """Tune without its tables, log files and signal handler inside the block."""
    variables = {
        "RAY_AIR_NEW_OUTPUT": "0",  # The old output respects verbose=0.
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "TUNE_GLOBAL_CHECKPOINT_S": "86400",
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
