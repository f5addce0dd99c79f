"""Tune's trainable: one segment of a trial, trained by the same driver as any training; its resources."""

import contextlib
import json
import os
import threading
from typing import Any

import ray.tune
from ray.util.queue import Empty, Queue

from facelib.config import Settings
from facelib.data import Folder
from facelib.utils.process import return_memory
from facelib.utils.wording import counted
from ray_jobs.cluster import configure_data
from ray_jobs.errors import JobError, user_error
from ray_jobs.resources import cluster_nodes, trials_that_fit, worker_resources
from ray_jobs.training.driver import fit
from ray_jobs.training.plan import TrainingPlan
from ray_jobs.tuning.callbacks import FAILURE, ReportCallback
from ray_jobs.tuning.state import TASK_NAME


def train_segment(config: dict[str, Any]) -> None:
    """Train one segment of a trial, in the trial's process.

    An error in the settings or a diverging training ends the trial at once; after any other failure Tune restarts it
    and it continues from its last checkpoint.
    """
    # A stopped trial's thread ends at its next report; the next trial in this process waits that long for it.
    os.environ.setdefault("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")
    task = json.loads(Folder(config["folder"]).read(TASK_NAME))
    settings = Settings.model_validate(task["settings"])
    configure_data(settings)
    plan = TrainingPlan.create(
        settings,
        task["method"],
        config["folder"],
        warm_start_from=task["warm_start_from"],
        stop_epoch=task["stop_epoch"],
        in_process=task["in_process"],
    )
    try:
        if plan.in_process:
            fit(plan, [ReportCallback(ray.tune.report)])
        else:
            fit_in_group(plan)
    except Exception as error:
        cause = user_error(error)
        if cause is None:
            raise
        ray.tune.report({FAILURE: str(cause)})
    finally:
        return_memory()  # The next trial may be trained in this process.


def fit_in_group(plan: TrainingPlan) -> None:
    """Train in a worker group from a second thread, and pass on to Tune what the group's controller reports.

    Tune's own callback for this is not used: reports left in its queue when the trial's function returns deadlock the
    trial, which happens as soon as the driver is busy for a moment.
    """
    reports = Queue(actor_options={"num_cpus": 0})
    errors: list[Exception] = []

    def training() -> None:
        try:
            fit(plan, [ReportCallback(reports.put)])
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=training, daemon=True)
    thread.start()
    running = True
    while running:
        running = thread.is_alive()  # Checked before the queue is drained: all reports of a dead thread are in it.
        with contextlib.suppress(Empty):
            while True:
                ray.tune.report(reports.get(timeout=1))
    if errors:
        raise errors[0]


def trial_resources(settings: Settings) -> dict[str, float]:
    """Resources Tune reserves for a trial's process.

    A process that only waits for its worker group reserves next to nothing, on the head node: if it reserved a CPU,
    trials would hold the CPUs that their own workers wait for.
    """
    if settings.tune.in_process:
        return worker_resources(settings.train)
    return {"node:__internal_head__": 0.001}


def concurrency(settings: Settings) -> int:
    """Trials at a time: as many as can reserve all they need, readers included, so that they cannot deadlock.

    Raises:
        JobError: a single trial does not fit, or fewer than `tune.concurrency` fit.
    """
    train, data, tune = settings.train, settings.data, settings.tune
    nodes = cluster_nodes()
    worker = worker_resources(train)
    fitting = trials_that_fit(nodes, worker, train.workers, data.cpus_per_reader, data.readers + 1)
    if settings.ray.autoscaling:
        # Waiting trials add nodes; only the user can decide how many trials that should be.
        return tune.concurrency or max(fitting, 1)
    if fitting == 0:
        total = {name: sum(node.get(name, 0) for node in nodes) for name in worker}
        raise JobError(
            f"no trial fits on the cluster: train.workers={train.workers} of {_listed(worker)} each, with a reader of "
            f"data.cpus_per_reader={data.cpus_per_reader:g} CPU for each, but the cluster has {_listed(total)} on "
            f"{counted(len(nodes), 'node')}. Lower one of these settings; fractions are allowed"
        )
    if tune.concurrency > fitting:
        raise JobError(
            f"tune.concurrency: {tune.concurrency} trials at a time, but only {fitting} fit on the cluster with "
            f"train.workers={train.workers} of {_listed(worker)} and {data.readers + 1} readers of "
            f"{data.cpus_per_reader:g} CPU each; 0 runs as many as fit"
        )
    return tune.concurrency or fitting


def _listed(resources: dict[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
