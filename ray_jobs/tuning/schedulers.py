"""Tune's scheduler interface over the sweep's stopping rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from ray_jobs.tuning.callbacks import EPOCH, FAILURE, WithoutSweep, keep_error, logged_metrics

if TYPE_CHECKING:
    from ray_jobs.tuning.state import Sweep


class SweepScheduler(WithoutSweep, FIFOScheduler):
    """Passes every epoch to the sweep and stops the trials that the sweep wants stopped."""

    def __init__(self, sweep: Sweep) -> None:
        super().__init__()
        self.sweep = sweep

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """One report of a trial: an epoch, or a failure caused by its settings."""
        number = trial.config["number"]
        if FAILURE in result:
            self.sweep.failures[number] = result[FAILURE]
        elif EPOCH in result:
            with keep_error(self.sweep):
                if self.sweep.report(number, result[EPOCH], logged_metrics(result)):
                    return TrialScheduler.STOP
        return TrialScheduler.CONTINUE
