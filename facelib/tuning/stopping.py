"""Early stopping: ASHA and the median rule, as functions of all reports so far.

No state is kept in memory: a sweep that was killed and continued makes the same decisions as an uninterrupted one.
"""

from collections.abc import Iterable

import numpy as np

from facelib.config import TuneSettings
from facelib.tuning.trials import Trial


def should_stop(tune: TuneSettings, trial: Trial, others: Iterable[Trial], epochs: int) -> bool:
    """Return whether to stop a trial after its last report.

    Args:
        others: the trials it is compared with.
        epochs: length of a full training; a trial that has reached it is never stopped.
    """
    if not trial.reports or trial.reports[-1].epoch >= epochs:
        return False
    if tune.scheduler == "asha":
        return _asha(tune, trial, others)
    if tune.scheduler == "median":
        return _median(tune, trial, others)
    return False


def rungs(tune: TuneSettings, epochs: int) -> list[int]:
    """Epochs at which ASHA compares: `grace_epochs` times powers of `reduction`, below `epochs`."""
    epochs_of_rungs, rung = [], float(tune.grace_epochs)
    while rung < epochs:
        epochs_of_rungs.append(int(np.ceil(rung)))
        rung *= tune.reduction
    return sorted(set(epochs_of_rungs))


def _asha(tune: TuneSettings, trial: Trial, others: Iterable[Trial]) -> bool:
    """Asynchronous successive halving (Li et al., MLSys 2020): at a rung only the best 1/reduction continue."""
    last, before = trial.reports[-1].epoch, [r.epoch for r in trial.reports[:-1]]
    reached = [r for r in rungs(tune, last + 1) if r <= last and all(e < r for e in before)]
    if not reached:
        return False  # Already decided at an earlier report, or before the first rung.
    sign = 1 if tune.mode == "max" else -1
    rung = reached[-1]
    values = [sign * v for o in others if (v := _value_from(o, rung)) is not None]
    if not values:
        return False
    return bool(sign * trial.reports[-1].value < np.percentile(values, 100 * (1 - 1 / tune.reduction)))


def _median(tune: TuneSettings, trial: Trial, others: Iterable[Trial]) -> bool:
    """Median rule of Vizier (Golovin et al., KDD 2017): stop if the best value is below the median of others' means."""
    epoch, sign = trial.reports[-1].epoch, 1 if tune.mode == "max" else -1
    if epoch < tune.grace_epochs:
        return False
    means = []
    for other in others:
        if other.reports and other.reports[-1].epoch >= epoch:
            values = [sign * r.value for r in other.reports if tune.grace_epochs <= r.epoch <= epoch]
            means += [float(np.mean(values))] if values else []
    if len(means) < tune.median_trials:
        return False
    return max(sign * r.value for r in trial.reports) < float(np.median(means))


def _value_from(trial: Trial, epoch: int) -> float | None:
    """The value a trial reported at an epoch, or at the first one after it."""
    return next((r.value for r in trial.reports if r.epoch >= epoch), None)
