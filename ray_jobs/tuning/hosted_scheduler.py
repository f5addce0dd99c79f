"""A scheduler of Ray Tune that decides about a sweep's trials, and is rebuilt from their files.

Tune does not save a scheduler's state (Ray issue 30838), so after an interruption it would compare the trials with
nothing. Here the scheduler is given every start, report and end of the search trials in the order in which the trial
store has them; a new driver gives it the same again, and it decides as if there had been no interruption.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    HyperBandScheduler,
    MedianStoppingRule,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
    ResourceChangingScheduler,
    TrialScheduler,
)

from facelib.config import Settings, SettingsError, TuneSettings
from facelib.config.components import build_component, class_name
from facelib.tuning.trials import EpochReport, Event, Trial
from ray_jobs.errors import JobError
from ray_jobs.tuning.callbacks import EPOCH

# With HyperBandForBOHB and PB2, which are subclasses.
PAUSING = (HyperBandScheduler, PopulationBasedTraining, PopulationBasedTrainingReplay, ResourceChangingScheduler)


class Stop(NamedTuple):
    """Why a trial ends before its last epoch.

    Args:
        complete: it has met `tune.stop`: nothing is missing.
    """

    reason: str
    complete: bool = False


class HostedScheduler:
    """Gives a scheduler of Tune the events of a sweep's search trials, and passes on its decisions.

    Args:
        scheduler: any that stops trials; one that pauses them raises JobError when it does.
        tune: the sweep's settings.
        seed: the scheduler's random numbers are a function of it and of the event.
    """

    def __init__(self, scheduler: TrialScheduler, tune: TuneSettings, seed: int) -> None:
        self.scheduler, self.tune, self.seed = scheduler, tune, seed
        self._trials: dict[int, TuneTrial] = {}
        self._controller: Any = _Controller(self._trials)

    def replay(self, events: Iterable[Event]) -> dict[int, Stop]:
        """Give the scheduler the events of an interrupted sweep.

        Returns:
            The trials that it has stopped, by number.
        """
        stopped: dict[int, Stop] = {}
        for event in events:
            if event.kind == "start":
                self.start(event.trial)
            elif event.kind == "end":
                self.end(event.trial)
            elif event.report is not None and (stop := self.report(event.trial, event.report)):
                stopped.setdefault(event.trial.number, stop)
        return stopped

    def start(self, trial: Trial) -> None:
        """A trial starts for the first time."""
        hosted = TuneTrial(
            "sweep",
            stub=True,
            trial_id=trial_id(trial),
            config=dict(trial.parameters),
            evaluated_params=dict(trial.parameters),
            stopping_criterion=dict(self.tune.stop),
        )
        hosted.set_status(TuneTrial.RUNNING)
        self._trials[trial.number] = hosted
        with _seeded(self.seed, trial.start_order or 0):
            self.scheduler.on_trial_add(self._controller, hosted)

    def report(self, trial: Trial, report: EpochReport) -> Stop | None:
        """A trial reports an epoch.

        Returns:
            Why it should stop, if it should. An answer for a trial's last epoch means nothing.

        Raises:
            JobError: the scheduler wants it paused.
        """
        hosted = self._trials[trial.number]
        result = tune_result(trial, report)
        name = class_name(self.tune.scheduler)
        if hosted.should_stop(result):
            met = [key for key, value in self.tune.stop.items() if key in result and result[key] >= value]
            reason = ", ".join(f"{key} {result[key]:.4g}" for key in met)
            stop: Stop | None = Stop(f"tune.stop: reached {reason} after epoch {report.epoch}", complete=True)
        else:
            with _seeded(self.seed, report.order):
                decision = self.scheduler.on_trial_result(self._controller, hosted, result)
            if decision == TrialScheduler.PAUSE:
                raise JobError(f"tune.scheduler: {name} pauses trials; {_NO_PAUSE}")
            stop = Stop(f"stopped by {name} after epoch {report.epoch}") if decision == TrialScheduler.STOP else None
        hosted.update_last_result(result)
        return stop

    def end(self, trial: Trial) -> None:
        """A trial has ended; its state says how."""
        hosted, failed = self._trials[trial.number], trial.state == "failed"
        with _seeded(self.seed, trial.end_order or 0):
            if failed:
                self.scheduler.on_trial_error(self._controller, hosted)
            else:
                self.scheduler.on_trial_complete(self._controller, hosted, dict(hosted.last_result))
        hosted.set_status(TuneTrial.ERROR if failed else TuneTrial.TERMINATED)


def hosted_scheduler(settings: Settings) -> HostedScheduler:
    """The host of `tune.scheduler`.

    Raises:
        SettingsError: it cannot be imported or built, or pauses trials.
    """
    return HostedScheduler(build_scheduler(settings.tune, settings.train.epochs), settings.tune, settings.seed)


def build_scheduler(tune: TuneSettings, epochs: int) -> TrialScheduler:
    """The scheduler that `tune.scheduler` names; one that stops nothing for `none` and `pbt`.

    Raises:
        SettingsError: it cannot be imported or built, or pauses trials.
    """
    common: dict[str, Any] = {
        "time_attr": EPOCH,
        "metric": tune.metric,
        "mode": tune.mode,
        "grace_period": tune.grace_epochs,
    }
    if tune.scheduler in ("none", "pbt"):
        return FIFOScheduler()
    if tune.scheduler == "asha":
        return AsyncHyperBandScheduler(**common, max_t=epochs, reduction_factor=tune.reduction)
    if tune.scheduler == "median":
        return MedianStoppingRule(**common, min_samples_required=tune.median_trials)
    scheduler = build_component("tune.scheduler", tune.scheduler, TrialScheduler)
    if isinstance(scheduler, PAUSING) or not getattr(scheduler, "_hard_stop", True):
        raise SettingsError(f"tune.scheduler: {type(scheduler).__name__} pauses trials; {_NO_PAUSE}")
    scheduler.set_search_properties(tune.metric, tune.mode)  # False: its options name them
    return scheduler  # type: ignore[no-any-return]


def trial_id(trial: Trial) -> str:
    """A trial's id for schedulers and searchers of Tune."""
    return f"{trial.number:04d}"


def tune_result(trial: Trial, report: EpochReport) -> dict[str, Any]:
    """A report as Tune's result."""
    return {
        **report.metrics,
        EPOCH: report.epoch,
        "training_iteration": report.epoch,
        "time_total_s": report.seconds - trial.start_seconds,
        "trial_id": trial_id(trial),
    }


_NO_PAUSE = (
    "trials of a sweep can be stopped but not paused, because a paused trial would be lost when the sweep is "
    "interrupted. Use one that stops trials (asha, median, a class of yours), or pbt, this project's population-based "
    "training"
)


class _Controller:
    """What a scheduler may ask Tune's controller."""

    def __init__(self, trials: dict[int, TuneTrial]) -> None:
        self._trials = trials

    def get_trials(self) -> list[TuneTrial]:
        """All trials, by number."""
        return [trial for _, trial in sorted(self._trials.items())]

    def get_live_trials(self) -> set[TuneTrial]:
        """Trials that have not ended."""
        return {trial for trial in self._trials.values() if not trial.is_finished()}

    def get_trial(self, tid: str) -> TuneTrial | None:
        """The trial with an id."""
        return next((trial for trial in self._trials.values() if trial.trial_id == tid), None)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"tune.scheduler: schedulers of a sweep cannot use tune_controller.{name}")


@contextlib.contextmanager
def _seeded(seed: int, order: int) -> Iterator[None]:
    """Global random numbers that are a function of the event inside the block, and as before after it."""
    before = random.getstate(), np.random.get_state()
    words = np.random.SeedSequence([seed, order]).generate_state(2)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
