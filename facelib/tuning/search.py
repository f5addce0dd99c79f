"""Search algorithms: random, grid, Optuna's samplers, and the generations of population-based training.

Every proposal is a function of the settings and the trials so far, not of state kept in memory. So a sweep that was
killed and continued proposes the same parameters.
"""

import math
from collections.abc import Sequence

import numpy as np

from facelib.config import TuneSettings
from facelib.tuning.optuna_search import ATTEMPTS, MODELS, propose, sampler_name
from facelib.tuning.space import Parameters, SearchSpace
from facelib.tuning.trials import Trial, TrialSegment

RESAMPLE = 0.25  # probability that a copied member resamples a parameter instead of perturbing it


def next_parameters(tune: TuneSettings, space: SearchSpace, trials: Sequence[Trial], seed: int) -> Parameters | None:
    """Parameters of the next search trial; None when the sweep has all its trials.

    Args:
        trials: all search trials so far, without the base trial.
    """
    number, points = len(trials), tune.points_to_evaluate
    if number >= trial_count(tune, space):
        return None
    if number < len(points):
        return space.checked(points[number])
    if tune.scheduler != "pbt" and tune.search == "grid":
        combinations = _grid(tune, space)
        # Shuffled, so that the first trials do not all come from one corner.
        order = np.random.default_rng(seed).permutation(len(combinations))
        return combinations[order[number - len(points)]]
    startup = number < tune.startup_trials and sampler_name(tune) in MODELS
    if tune.scheduler != "pbt" and tune.search == "optuna" and not startup:
        proposal = propose(tune, space, trials, seed)
        if proposal is not None:
            return proposal
        return _draw_new(space, trials, np.random.default_rng([seed, 3, number]))
    return _draw_new(space, trials, np.random.default_rng([seed, number]))


def trial_count(tune: TuneSettings, space: SearchSpace) -> int:
    """Number of trials of a complete search, without the base trial."""
    if tune.search == "grid" and tune.scheduler != "pbt":
        return min(len(tune.points_to_evaluate) + len(_grid(tune, space)), tune.trials)
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


def _grid(tune: TuneSettings, space: SearchSpace) -> list[Parameters]:
    """All combinations that are not among the first trials already."""
    return [point for point in space.grid(tune.grid_points) if point not in tune.points_to_evaluate]


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
