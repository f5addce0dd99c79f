"""Checks of the classes that a sweep's settings name, before the first trial."""

from ray.tune import Callback

from facelib.config import Settings, SettingsError
from facelib.config.components import load_class
from facelib.tuning.space import SearchSpace
from ray_jobs.tuning.hosted_scheduler import build_scheduler
from ray_jobs.tuning.hosted_searcher import build_searcher


def check_components(space: SearchSpace, settings: Settings) -> None:
    """Check the scheduler, the searcher, the callbacks and the file of the export.

    Raises:
        SettingsError: a class cannot be imported, built, or used in a sweep; names the setting.
    """
    tune = settings.tune
    build_scheduler(tune, settings.train.epochs)
    if isinstance(tune.search, dict):
        build_searcher(tune, space)
    for callback in tune.callbacks:
        load_class("tune.callbacks", callback, Callback)
    if tune.export_optuna and "://" in settings.path(tune.export_optuna):
        raise SettingsError(f"tune.export_optuna: {tune.export_optuna}: SQLite needs a file on this machine, not a URI")
