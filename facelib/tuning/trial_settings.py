"""Settings of the trainings of a sweep: each trial's, and the winner's as written to best.yaml."""

from collections.abc import Mapping
from typing import Any

from facelib.config import Settings, change_settings
from facelib.tuning.trials import Trial

INPUTS = ("data.dataset", "data.heldout", "model.init_from")  # relative to `output`, unless absolute


def trial_settings(
    settings: Settings, trial: Trial, segment: int, output: str, source: Trial | None = None
) -> Settings:
    """Settings a segment of a trial is trained with.

    Args:
        settings: the sweep's settings.
        output: the trial's folder.
        source: the search trial that a final training takes its parameters from.

    Raises:
        SettingsError: a parameter does not fit the settings.
    """
    base, parameters = settings, trial.segments[segment].parameters
    if trial.kind == "final" and source is not None:
        base, parameters = best_settings(settings, source, ""), {}
    changes = {
        **standalone_changes(base, parameters, output),
        "name": f"{settings.name}/{trial.title}",
        "seed": trial.seed,
        # Trials share machines: use as many threads as the trial has reserved.
        "train.threads": settings.train.threads or max(1, int(settings.train.cpus_per_worker)),
        "tracking.system_metrics": False,
    }
    return change_settings(base, changes, f"trial {trial.number}")


def best_settings(settings: Settings, winner: Trial, output: str) -> Settings:
    """Settings of a training with the winner's parameters, with `tune.final` applied over them.

    Args:
        output: folder of that training; the paths of datasets do not change.
    """
    changes = {**standalone_changes(settings, winner.parameters, output), **settings.tune.final}
    return change_settings(settings, changes, "tune.final")


def standalone_changes(settings: Settings, parameters: Mapping[str, Any], output: str) -> dict[str, Any]:
    """Changes that make a training with these parameters independent of the sweep; input paths become absolute."""
    changes = {**{name: _lookup(settings, name) for name in INPUTS}, **parameters}
    for name in INPUTS:
        if changes[name]:
            changes[name] = settings.path(changes[name])
    return {**changes, "output": output, "stages": [], "tune": {}}


def _lookup(settings: Settings, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(settings, section), key)
