"""Search algorithms: random, grid, Optuna's TPE, and the generations of population-based training.

Every proposal is a function of the settings and the trials so far, not of state kept in memory (Optuna's study is
rebuilt from the trials each time). So a sweep that was killed and continued proposes the same parameters.
"""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from facelib.config import TuneSettings
from facelib.tuning.space import Parameters, SearchSpace
from facelib.tuning.trials import Trial, TrialSegment
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

ATTEMPTS = 100  # draws before a duplicate is accepted
RESAMPLE = 0.25  # probability that a copied member resamples a parameter instead of perturbing it


def next_parameters(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], seed: int) -> Parameters | None:
    """Parameters of the next search trial; None when the sweep has all its trials.

    Args:
        trials: all search trials so far, without the base trial.
    """
    number = len(trials)
    if tune.search == "grid" and tune.scheduler != "pbt":
        combinations = space.grid(tune.grid_points)
        # Shuffled, so that the first trials do not all come from one corner.
        order = np.random.default_rng(seed).permutation(len(combinations))
        return combinations[order[number]] if number < trial_count(tune, space) else None
    if number >= tune.trials:
        return None
    if tune.search == "optuna" and tune.scheduler != "pbt" and number >= tune.startup_trials:
        return _propose_optuna(tune, space, trials, seed)
    return _draw_new(space, trials, np.random.default_rng([seed, number]))


def trial_count(tune: TuneSettings, space: SearchSpace) -> int:
    """Number of trials of a complete search, without the base trial."""
    if tune.search == "grid" and tune.scheduler != "pbt":
        return min(len(space.grid(tune.grid_points)), tune.trials)
    return tune.trials


def next_generation(
    tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], epochs: int, seed: int
) -> dict[int, TrialSegment]:
    """The next segment of every member of the population, by trial number; empty when the training is over.

    Population-based training (Jaderberg et al., 2017). Call it when all members have ended their last segments. The
    worst members (a share of `tune.quantile`) and those that failed continue from the state of one of the best with
    perturbed parameters; the others continue unchanged.
    """
    generation = len(trials[0].segments)
    reached = trials[0].segments[-1].stop_epoch
    if reached >= epochs:
        return {}
    stop = min(reached + tune.interval, epochs)
    sign = 1 if tune.mode == "max" else -1
    fitness = {t.number: sign * _value_at(t, reached) for t in trials}
    ranked = sorted(trials, key=lambda t: (-fitness[t.number], t.number))
    alive = [t for t in ranked if math.isfinite(fitness[t.number])]
    if not alive:
        return {}
    count = min(math.ceil(len(ranked) * tune.quantile), len(ranked) // 2)
    best = alive[: max(count, 1)]
    replaced = {t.number for t in ranked[len(ranked) - count :]} | {t.number for t in ranked if t not in alive}
    segments = {}
    for trial in trials:
        rng = np.random.default_rng([seed, 1, generation, trial.number])
        if trial.number in replaced - {t.number for t in best}:
            parent = best[int(rng.integers(len(best)))]
            parameters = space.perturbed(parent.parameters, RESAMPLE, rng)
        else:
            parent, parameters = trial, trial.parameters
        segments[trial.number] = TrialSegment(
            parameters=parameters, stop_epoch=stop, warm_start_from=(parent.number, len(parent.segments) - 1)
        )
    return segments


def _value_at(trial: Trial, epoch: int) -> float:
    values = [r.value for r in trial.reports if r.epoch == epoch]
    return values[-1] if values else math.nan


def _draw_new(space: SearchSpace, trials: Sequence[Trial], rng: np.random.Generator) -> Parameters:
    """A random draw that avoids duplicates of earlier trials, which happen in a small space."""
    before = [t.segments[0].parameters for t in trials]
    drawn = space.sample(rng)
    for _ in range(ATTEMPTS):
        if drawn not in before:
            break
        drawn = space.sample(rng)
    return drawn


def _propose_optuna(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], seed: int) -> Parameters:
    require_extra("ray", "a sampler of Optuna", "optuna")

    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is experimental
        sampler = optuna.samplers.TPESampler(
            multivariate=True,
            group=True,  # Model conditional fields separately.
            constant_liar=True,  # Do not propose the parameters of running trials again.
            n_startup_trials=tune.startup_trials,
            seed=int(np.random.default_rng([seed, 2, len(trials)]).integers(2**31)),
        )
    study = optuna.create_study(sampler=sampler, direction="maximize" if tune.mode == "max" else "minimize")
    for trial in trials:
        study.add_trial(_as_optuna(trial, space))
    before = [t.segments[0].parameters for t in trials]
    for _ in range(ATTEMPTS):  # A rejected proposal counts as running, so the next one differs.
        proposal = study.ask()
        drawn = space.fill(lambda name, chosen: chosen.suggest(proposal, space.optuna_name(name, chosen)))  # noqa: B023
        if drawn not in before:
            return drawn
    return _draw_new(space, trials, np.random.default_rng([seed, 3, len(trials)]))


def _as_optuna(trial: Trial, space: SearchSpace) -> "FrozenTrial":
    require_extra("ray", "a sampler of Optuna", "optuna")

    import optuna

    states = optuna.trial.TrialState
    params, distributions = {}, {}
    for name, value in trial.parameters.items():
        chosen = space.active(name, trial.parameters)
        if chosen is not None:
            key = space.optuna_name(name, chosen)
            params[key], distributions[key] = chosen.encode(value), chosen.distribution()
    state = {"open": states.RUNNING, "finished": states.COMPLETE, "stopped": states.PRUNED, "failed": states.FAIL}
    return optuna.trial.create_trial(
        state=state[trial.state],
        value=trial.score if trial.state == "finished" else None,
        params=params,
        distributions=distributions,
        intermediate_values={r.epoch: r.value for r in trial.reports},
    )
