"""Hyperparameter sweeps on Ray Tune: the sweep's decisions, and Tune's classes that connect it to Tune.

From Python:

    from ray_jobs.tuning import load_sweep, sweep

    result = sweep(settings)            # runs one, or continues it
    result = load_sweep("runs/tune/sweep_ssl")
    print(result.best.parameters)
"""

from facelib.config import Settings
from facelib.tuning.results import SweepResult, load_sweep

__all__ = ["SweepResult", "load_sweep", "sweep"]


def sweep(settings: Settings) -> SweepResult:
    """Run a sweep, as `python -m ray_jobs.tune` does, and read its results.

    Raises:
        SettingsError: a setting that cannot be used; the message names it.
        JobError: the sweep failed for a reason that the user can act on; the same call continues it.
    """
    from ray_jobs.tune import tune

    tune(settings)
    return load_sweep(settings.path(settings.tune.folder))
