"""Callbacks: epochs of a training reported to its trial, and ends of trials reported to the sweep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ray.train import UserCallback
from ray.tune.callback import Callback
from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS, DEFAULT_EXPERIMENT_INFO_KEYS, DONE, SHOULD_CHECKPOINT

from facelib.config.components import build_component
from ray_jobs.errors import user_error
from ray_jobs.training.callbacks import LOGGED

if TYPE_CHECKING:
    from facelib.config import TuneSettings
    from ray_jobs.tuning.state import Sweep

FAILURE, EPOCH = "failure", "epoch"  # keys of a trial's reports
_ADDED_BY_TUNE = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, *DEFAULT_EXPERIMENT_INFO_KEYS, DONE, SHOULD_CHECKPOINT}


class WithoutSweep:
    """Base of objects passed to Tune that hold the sweep: Tune pickles them into its state, the sweep is left out."""

    sweep: Sweep

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "sweep"}


class SweepCallback(WithoutSweep, Callback):
    """Reports every end of a trial to the sweep."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial finished or was stopped."""
        with keep_error(self.sweep):
            self.sweep.end_segment(trial.config["number"], trial.config["segment"])

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial's process died; Tune restarts it."""
        print(f"trial {trial.config['number']}: its process died; restarting it from its last checkpoint", flush=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial failed more than `tune.max_failures` times."""
        error = trial.get_pickled_error()
        cause = (user_error(error) or error) if error is not None else None
        lines = [line for line in str(cause).splitlines() if line.strip()] or ["unknown error"]
        with keep_error(self.sweep):
            message = f"{type(cause).__name__}: {lines[-1]}"
            self.sweep.end_segment(trial.config["number"], trial.config["segment"], message)


def build_callbacks(tune: TuneSettings) -> list[Callback]:
    """The callbacks of Tune that `tune.callbacks` names.

    Raises:
        SettingsError: one cannot be imported or built.
    """
    return [build_component("tune.callbacks", component, Callback) for component in tune.callbacks]


class ReportCallback(UserCallback):
    """Passes on each epoch's metrics: to Tune, or from Ray Train's controller to the trial that reports to Tune.

    Args:
        send: receives `epoch_report` of each epoch.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        self.send = send

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """One report of all ranks; reports within an epoch (checkpoints) have no metrics to pass on."""
        if LOGGED in metrics[0]:
            self.send(epoch_report(metrics[0]))


def epoch_report(reported: dict[str, Any]) -> dict[str, Any]:
    """An epoch's report in the flat form that Tune passes on: its number, and its metrics under their own names."""
    return {EPOCH: reported["epoch"], **reported[LOGGED]}


def logged_metrics(result: dict[str, Any]) -> dict[str, float]:
    """Metrics of an `epoch_report` as Tune passes it on, without what Tune has added."""
    return {
        name: value
        for name, value in result.items()
        if name != EPOCH and name not in _ADDED_BY_TUNE and not name.startswith("config/")
    }


@contextlib.contextmanager
def keep_error(sweep: Sweep) -> Iterator[None]:
    """Keep an error of the sweep's own code in `sweep.error`: Tune only passes on its text."""
    try:
        yield
    except Exception as error:
        sweep.error = sweep.error or error
        raise
