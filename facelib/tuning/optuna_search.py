"""Proposals by Optuna's samplers, from a study that is rebuilt from the trials each time; studies as files.

Nothing is kept in memory or beside the trials, so a sweep that was killed and continued gets the same proposals.
Samplers that are functions of the trials' values (TPE, Gaussian processes, brute force) get a study with these trials.
Others (CMA-ES, quasi-Monte Carlo, any class) count their own proposals: for them every question and answer is repeated
in its order.
"""

import inspect
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from facelib.config import SettingsError, TuneSettings
from facelib.config.components import build_component
from facelib.tuning.space import Parameters, SearchSpace
from facelib.tuning.trials import Trial, in_order
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial
    from optuna.trial import Trial as OptunaTrial

SAMPLERS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
    "brute_force": "BruteForceSampler",
}
_CATEGORIES = (bool, int, float, str, type(None))  # what Optuna can store
MODELS = ("tpe", "gp")  # samplers that come after `startup_trials` random trials
ATTEMPTS = 100  # questions before a duplicate is accepted


def sampler_name(tune: TuneSettings) -> str:
    """The word or the class of `tune.sampler`."""
    return tune.sampler if isinstance(tune.sampler, str) else str(tune.sampler["class"])


def propose(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], seed: int) -> Parameters | None:
    """Parameters that the sampler proposes for the next trial; None if it only repeats earlier ones.

    Args:
        trials: all search trials so far, without the base trial.

    Raises:
        SettingsError: the sampler cannot be built, or does not take this space.
    """
    optuna = _optuna()
    before = [t.segments[0].parameters for t in trials]
    try:
        if sampler_name(tune) in (*MODELS, "brute_force"):
            study = _study(
                tune, build_sampler(tune, int(np.random.default_rng([seed, 2, len(trials)]).integers(2**31)))
            )
            for trial in trials:
                study.add_trial(as_optuna(trial, space))
        else:
            study = _repeated_study(tune, space, trials, int(np.random.default_rng([seed, 2]).integers(2**31)))
        drawn, _ = _ask(study, space, before)
    except (ValueError, NotImplementedError, optuna.exceptions.OptunaError) as error:
        raise SettingsError(f"tune.sampler: {sampler_name(tune)} cannot search this space: {error}") from error
    return None if drawn in before else drawn


def build_sampler(tune: TuneSettings, seed: int) -> "BaseSampler":
    """The sampler that `tune.sampler` names.

    Raises:
        SettingsError: it cannot be imported or built.
    """
    optuna = _optuna()
    name = sampler_name(tune)
    path = f"optuna.samplers:{SAMPLERS[name]}" if name in SAMPLERS else name
    defaults: dict[str, Any] = {"seed": seed, "n_startup_trials": tune.startup_trials}
    if name == "tpe":
        # Model conditional fields separately, and do not propose the parameters of running trials again.
        defaults |= {"multivariate": True, "group": True, "constant_liar": True}
    module, _, class_name = path.partition(":")
    known = getattr(optuna.samplers, class_name, None) if module == "optuna.samplers" else None
    taken = inspect.signature(known).parameters if known is not None else {}
    options = {} if isinstance(tune.sampler, str) else tune.sampler["options"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return build_component(  # type: ignore[no-any-return]
            "tune.sampler",
            {"class": path, "options": options},
            optuna.samplers.BaseSampler,
            **{key: value for key, value in defaults.items() if key in taken},
        )


def as_optuna(trial: Trial, space: SearchSpace, for_people: bool = False) -> "FrozenTrial":
    """A trial as one of Optuna's: early stopping is pruning.

    Args:
        for_people: with the values of a `choice` or `grid` themselves, not their indices.
    """
    optuna = _optuna()
    states = optuna.trial.TrialState
    params, distributions = {}, {}
    for name, value in trial.parameters.items():
        chosen = space.active(name, trial.parameters)
        if chosen is not None:
            key = space.optuna_name(name, chosen)
            params[key], distributions[key] = chosen.encode(value), chosen.distribution()
            if for_people and chosen.values and all(isinstance(v, _CATEGORIES) for v in chosen.values):
                params[key] = value
                distributions[key] = optuna.distributions.CategoricalDistribution(chosen.values)
    # A study has no word for a trial that ended without a finite value other than that it failed.
    scored = trial.score is not None
    state = {
        "open": states.RUNNING,
        "finished": states.COMPLETE if scored else states.FAIL,
        "stopped": states.PRUNED,
        "failed": states.FAIL,
    }[trial.state]
    return optuna.trial.create_trial(
        state=state,
        value=trial.score if state == states.COMPLETE else None,
        params=params,
        distributions=distributions,
        intermediate_values={r.epoch: r.value for r in trial.reports},
    )


def export_study(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], path: str, name: str) -> None:
    """Write the search trials as a study to an SQLite file, for `optuna-dashboard sqlite:///<path>`.

    A study of the same name in the file is replaced.
    """
    optuna = _optuna()
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    try:
        if name in optuna.study.get_all_study_names(storage):
            optuna.delete_study(study_name=name, storage=storage)
        direction = "maximize" if tune.mode == "max" else "minimize"
        study = optuna.create_study(study_name=name, storage=storage, direction=direction)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([tune.metric])
        for trial in trials:
            frozen = as_optuna(trial, space, for_people=True)
            for key, value in {"trial": trial.label, "state": trial.state, "mlflow_run": trial.run_id}.items():
                frozen.set_user_attr(key, value)
            study.add_trial(frozen)
    finally:
        storage.remove_session()


def _repeated_study(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], seed: int) -> "Study":
    """A study in which every question and answer of the sweep was repeated, in order."""
    optuna = _optuna()
    states = optuna.trial.TrialState
    study = _study(tune, build_sampler(tune, seed))
    before: list[dict[str, Any]] = []
    asked: dict[int, OptunaTrial] = {}
    for event in in_order(trials):
        trial = event.trial
        parameters = trial.segments[0].parameters
        if event.kind == "start":
            if parameters not in tune.points_to_evaluate:
                drawn, question = _ask(study, space, before)
                if drawn == parameters:
                    asked[trial.number] = question
                else:  # another version of Optuna asked something else
                    study.tell(question, state=states.FAIL)
            before.append(parameters)
        elif event.kind == "end" and trial.number not in asked:
            study.add_trial(as_optuna(trial, space))
        elif event.kind == "end":
            state = as_optuna(trial, space).state
            study.tell(asked[trial.number], trial.score if state == states.COMPLETE else None, state)
        elif event.report is not None and trial.number in asked:
            asked[trial.number].report(event.report.value, event.report.epoch)
    return study


def _ask(study: "Study", space: SearchSpace, before: Sequence[Parameters]) -> "tuple[Parameters, OptunaTrial]":
    """The first of `ATTEMPTS` proposals that is new; a rejected one counts as running, so the next one differs."""
    for _ in range(ATTEMPTS):
        proposal = study.ask()
        drawn = space.fill(lambda name, chosen: chosen.suggest(proposal, space.optuna_name(name, chosen)))  # noqa: B023
        if drawn not in before:
            break
    return drawn, proposal


def _study(tune: TuneSettings, sampler: "BaseSampler") -> "Study":
    return _optuna().create_study(sampler=sampler, direction="maximize" if tune.mode == "max" else "minimize")  # type: ignore[no-any-return]


def _optuna() -> Any:
    """The package; its log is silent."""
    require_extra("ray", "a sampler of Optuna", "optuna")

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
