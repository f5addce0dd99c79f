"""A searcher of Ray Tune that proposes a sweep's trials, and asks on where it was after an interruption.

Its own state (`Searcher.save`) is written beside the trials, before the file of each new trial: `searcher/0007.state`
is the state after it proposed trial 7. A new driver restores the state of the newest trial and tells the searcher what
happened after that, from the trials' files. Most searchers of Tune pickle their state: continue only sweeps from
folders that you trust.
"""

import contextlib
import inspect
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray.tune
from ray.tune.search import Searcher

from facelib.config import SettingsError, TuneSettings
from facelib.config.components import build_component, class_name, load_class
from facelib.data import Folder
from facelib.tuning.optuna_search import ATTEMPTS
from facelib.tuning.space import Parameters, Range, SearchSpace
from facelib.tuning.trials import EpochReport, Trial, in_order
from ray_jobs.errors import JobError
from ray_jobs.tuning.hosted_scheduler import tune_result

_SUFFIX = ".state"


class HostedSearcher:
    """Asks a searcher for parameters and tells it the results.

    Args:
        tune: the sweep's settings; `tune.search` names the searcher.
        space: what it searches.
        folder: for its states.

    Raises:
        SettingsError: see `build_searcher`.
    """

    def __init__(self, tune: TuneSettings, space: SearchSpace, folder: Folder) -> None:
        self.tune, self.space, self.folder = tune, space, folder
        self.searcher, takes_points = build_searcher(tune, space)
        # Points that the searcher does not take are trained without asking it.
        self._points = [] if takes_points else [space.checked(point) for point in tune.points_to_evaluate]

    def restore(self, trials: Sequence[Trial]) -> None:
        """Bring the searcher to where it was.

        Args:
            trials: the proposed trials of an interrupted sweep.

        Raises:
            DatasetError: its state is missing.
        """
        if not trials:
            return
        newest = max(trials, key=lambda trial: trial.number)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "state"
            path.write_bytes(self.folder.read(_state_name(newest.number)))
            self.searcher.restore(str(path))
        for event in in_order(trials):
            if newest.start_order is None or event.order <= newest.start_order:
                continue
            if event.kind == "end":
                self.end(event.trial)
            elif event.report is not None:
                self.report(event.trial, event.report)

    def propose(self, number: int, trials: Sequence[Trial]) -> tuple[Parameters, str] | None:
        """Parameters of a new trial, and its id for the searcher; None: none now, or never if no trial is running.

        A searcher that proposes the same again is told the result, and asked again.

        Args:
            number: the new trial's.
            trials: all proposed trials so far.

        Raises:
            JobError: the proposal is not in the search space.
        """
        if len(trials) < len(self._points):
            return self._points[len(trials)], ""
        for attempt in range(ATTEMPTS):
            search_id = f"{number:04d}" + (f"-{attempt}" if attempt else "")
            found = self.searcher.suggest(search_id)
            if found is None or found == Searcher.FINISHED:
                return None
            try:
                # A searcher without conditions proposes values for all fields.
                parameters = self.space.checked({k: v for k, v in found.items() if k in self.space.ranges})
            except ValueError as error:
                raise JobError(f"tune.search: {class_name(self.tune.search)} proposed {found}: {error}") from None
            same = next((trial for trial in trials if trial.parameters == parameters), None)
            if same is None or attempt == ATTEMPTS - 1:
                return parameters, search_id
            self._complete(search_id, same)
        return None

    def save(self, number: int) -> None:
        """Write the searcher's state after it proposed a trial. Call it before the trial's file is written."""
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "state"
            self.searcher.save(str(path))
            self.folder.create().write(_state_name(number), path.read_bytes())

    def forget(self, number: int) -> None:
        """Delete states that are not needed once a trial's file is written."""
        for name in self.folder.names():
            if name.endswith(_SUFFIX) and name < _state_name(number):
                self.folder.fs.delete_file(f"{self.folder.path}/{name}")

    def report(self, trial: Trial, report: EpochReport) -> None:
        """An epoch of a trial; values that are not finite are not passed on."""
        if math.isfinite(report.value) and trial.search_id:
            self.searcher.on_trial_result(trial.search_id, tune_result(trial, report))

    def end(self, trial: Trial) -> None:
        """The end of a trial: its score, or an error if it has none."""
        if trial.search_id:
            self._complete(trial.search_id, trial)
        elif trial.score is not None:
            # Not every searcher can be told what it has not asked for.
            with contextlib.suppress(NotImplementedError, TypeError):
                self.searcher.add_evaluated_point(
                    dict(trial.parameters), trial.score, trial.state == "failed", trial.state == "stopped"
                )

    def _complete(self, search_id: str, trial: Trial) -> None:
        if trial.state in ("open", "failed") or trial.score is None:
            self.searcher.on_trial_complete(search_id, error=True)
        else:
            last = {**tune_result(trial, trial.reports[-1]), self.tune.metric: trial.score, "done": True}
            self.searcher.on_trial_complete(search_id, result=last)


class DefineByRun:
    """A search space as the define-by-run function that `OptunaSearch` takes, conditions included."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    def __call__(self, trial: Any) -> Parameters:
        """Ask an Optuna trial for the values of all fields that apply."""
        return self.space.fill(lambda name, chosen: chosen.suggest(trial, self.space.optuna_name(name, chosen)))


def build_searcher(tune: TuneSettings, space: SearchSpace) -> tuple[Searcher, bool]:
    """The searcher that `tune.search` names, with the search space.

    Returns:
        The searcher; whether it was given `tune.points_to_evaluate`.

    Raises:
        SettingsError: it cannot be imported or built, cannot be saved, or does not take the space.
    """
    found: Any = load_class("tune.search", tune.search, Searcher)
    if found.save is Searcher.save or found.restore is Searcher.restore:
        raise SettingsError(
            f"tune.search: {found.__name__} has no methods save and restore, so an interrupted sweep could not go on"
        )
    options = inspect.signature(found).parameters
    points = [space.checked(point) for point in tune.points_to_evaluate]
    more: dict[str, Any] = {}
    define_by_run = _is_optuna(found)
    if define_by_run:
        more = {"space": DefineByRun(space), "metric": tune.metric, "mode": tune.mode}
        points = [_encoded(space, point) for point in points]
    takes_points = bool(points) and "points_to_evaluate" in options
    if takes_points:
        more["points_to_evaluate"] = points
    searcher = build_component("tune.search", tune.search, Searcher, **more)
    if not define_by_run:
        config = tune_space(space, found.__name__)
        if not searcher.set_search_properties(tune.metric, tune.mode, config):
            raise SettingsError(
                f"tune.search: {found.__name__} does not take tune.space; leave space, metric and mode out of its "
                "options"
            )
    return searcher, takes_points


def tune_space(space: SearchSpace, searcher: str) -> dict[str, Any]:
    """The search space as Tune's: {field: domain}.

    Raises:
        SettingsError: it has conditions, which Tune's spaces cannot express.
    """
    for name, ranges in space.ranges.items():
        if len(ranges) > 1 or ranges[0].when:
            raise SettingsError(
                f"tune.space.{name}: has a condition, which {searcher} cannot express; remove it, or use tune.search: "
                "optuna or ray.tune.search.optuna:OptunaSearch"
            )
    return {name: _domain(ranges[0]) for name, ranges in space.ranges.items()}


def _domain(chosen: Range) -> Any:
    if chosen.values:
        return ray.tune.choice(list(chosen.values))
    low, high, step = chosen.low, chosen.high, chosen.step
    if step and not math.isclose(low / step, round(low / step), abs_tol=1e-9):
        return ray.tune.choice(chosen.points(2**31))  # Tune's steps start at 0.
    if chosen.kind == "integer":
        if step > 1:
            return ray.tune.qrandint(int(low), int(high), int(step))
        return (ray.tune.lograndint if chosen.log else ray.tune.randint)(int(low), int(high) + 1)
    if step:
        return ray.tune.quniform(low, high, step)
    return (ray.tune.loguniform if chosen.log else ray.tune.uniform)(low, high)


def _encoded(space: SearchSpace, point: Parameters) -> Parameters:
    """A point under Optuna's names and in its values."""
    encoded = {}
    for name, value in point.items():
        chosen = space.active(name, point)
        if chosen is not None:
            encoded[space.optuna_name(name, chosen)] = chosen.encode(value)
    return encoded


def _is_optuna(found: type) -> bool:
    try:
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        return False
    return issubclass(found, OptunaSearch)


def _state_name(number: int) -> str:
    return f"{number:04d}{_SUFFIX}"
