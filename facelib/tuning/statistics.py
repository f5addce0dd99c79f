"""Statistics of a sweep: finalists compared over seeds, and the importance of the searched fields.

A trial's score varies with its seed, and the best of many scores is biased upward. So finalists are trained again
with seeds not used in the search, the same seeds for each finalist, and are compared seed by seed. The winner is the
best by those same numbers, so its lead is judged against the largest difference of any two finalists that chance makes
(Tukey's test in randomized blocks, a block for each seed).
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from facelib.tuning.space import Parameters, SearchSpace
from facelib.tuning.trials import Trial
from facelib.utils.optional import require_extra

CONFIDENCE = 0.95
MIN_SEEDS = 3  # Below, the scatter over seeds is not known well enough for any statement.
ROUNDING = 1e-10  # A scatter below this share of the scores is rounding noise, not a measurement of chance.
MIN_TRIALS, ENOUGH_TRIALS = 8, 20  # For importance: at least; and as many as make a later epoch worth more trials.


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student's t); no interval (nan) for a single value."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class PairedComparison:
    """The winner against another finalist, on the same seeds.

    Args:
        other: number of the other trial.
        difference: winner minus other, with a 95 % interval that holds for all pairs of finalists together.
        p: chance of a difference as large between any two finalists that are equal; 1 where too few seeds tell.
    """

    other: int
    difference: Estimate
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5 % (family-wise, over all pairs of finalists)."""
        return self.p < 1 - CONFIDENCE


@dataclass(frozen=True)
class FinalistComparison:
    """Result of the comparison of finalists.

    Args:
        winner: trial with the best mean.
        finalists: estimate by trial number, best first.
        comparisons: the winner against every other finalist.
        seeds: number of seeds that all compared finalists share; the test needs three.
    """

    winner: int
    finalists: dict[int, Estimate]
    comparisons: list[PairedComparison]
    seeds: int = 0


def estimate(values: Sequence[float]) -> Estimate:
    """Mean with its 95 % t interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan, len(values))
    margin = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - margin, mean + margin, len(values))


def compare_finalists(scores: Mapping[int, Mapping[int, float]], mode: str) -> FinalistComparison | None:
    """Choose the finalist with the best mean over seeds, and compare it to every other finalist.

    Args:
        scores: {trial: {seed: score}}. Finalists with fewer than three seeds (repeats failed) come last and are not
            tested; the others are tested on the seeds that all of them have.
        mode: `max` or `min`.

    Returns:
        None when no finalist has a score.
    """
    finite = {n: {seed: v for seed, v in s.items() if math.isfinite(v)} for n, s in scores.items()}
    scored = {n: s for n, s in finite.items() if s}
    if not scored:
        return None
    sign = -1 if mode == "max" else 1
    estimates = {n: estimate(list(s.values())) for n, s in scored.items()}
    ranked = sorted(estimates, key=lambda n: (estimates[n].count < MIN_SEEDS, sign * estimates[n].mean))
    tested = [n for n in ranked if estimates[n].count >= MIN_SEEDS] or ranked
    seeds = sorted(set.intersection(*(set(scored[n]) for n in tested)))
    winner = ranked[0]
    if len(seeds) >= MIN_SEEDS:  # The winner of the test, too, is the best of what is tested.
        winner = min(tested, key=lambda n: sign * float(np.mean([scored[n][seed] for seed in seeds])))
        ranked = [winner, *(n for n in ranked if n != winner)]
    table = np.array([[scored[n][seed] for seed in seeds] for n in tested]).reshape(len(tested), len(seeds))
    comparisons = []
    for other in ranked[1:]:
        if other in tested and len(seeds) >= MIN_SEEDS:
            comparisons.append(PairedComparison(other, *tukey(table, tested.index(winner), tested.index(other))))
        else:
            common = sorted(scored[winner].keys() & scored[other].keys())
            differences = [scored[winner][seed] - scored[other][seed] for seed in common]
            mean = float(np.mean(differences)) if differences else math.nan
            comparisons.append(PairedComparison(other, Estimate(mean, math.nan, math.nan, len(common)), 1.0))
    return FinalistComparison(winner, {n: estimates[n] for n in ranked}, comparisons, len(seeds))


def tukey(table: np.ndarray, first: int, second: int) -> tuple[Estimate, float]:
    """Row `first` minus row `second` of scores [finalists, seeds], with simultaneous 95 % interval and p.

    Every finalist is trained with every seed: what a seed does to all of them is taken out, and the rest is pooled over
    finalists. p and interval hold for the largest of all differences, so also for a winner chosen by these scores.
    """
    from scipy.stats import studentized_range

    finalists, seeds = table.shape
    difference = float(table[first].mean() - table[second].mean())
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    freedom = (finalists - 1) * (seeds - 1)
    error = math.sqrt(float(np.square(rest).sum()) / freedom / seeds)
    if error <= ROUNDING * float(np.abs(table).max()):
        return Estimate(difference, math.nan, math.nan, seeds), 1.0
    margin = _critical_range(finalists, freedom) * error
    p = float(studentized_range.sf(abs(difference) / error, finalists, freedom))
    # The integral behind p has an error of about 1e-12: no smaller p is known.
    return Estimate(difference, difference - margin, difference + margin, seeds), max(p, 1e-12)


@functools.cache
def _critical_range(groups: int, freedom: int) -> float:
    """Range of that many equal means, in standard errors, that chance exceeds in 5 % of cases."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, groups, freedom))


@dataclass(frozen=True)
class Importance:
    """Permutation importance: how much worse a random forest predicts unseen trials with a field's values shuffled.

    Args:
        shares: by field, as a share of the variance of scores; about 0: no effect, or too few trials to detect one.
        explained: share of the variance of unseen trials that the forest predicts (R²); at 0 or below the shares
            are meaningless.
        trials: how many trials it rests on.
        basis: which trials and which of their scores, in words.
    """

    shares: dict[str, float]
    explained: float
    trials: int = 0
    basis: str = ""


@dataclass(frozen=True)
class ComparableTrials:
    """Trials with scores after equally long training; see `comparable_trials`."""

    trials: list[Trial]
    basis: str


def comparable_trials(trials: Sequence[Trial], mode: str, use_last: bool = False) -> ComparableTrials:
    """Copies of trials whose scores can be compared, although some were stopped early.

    The score of a stopped trial is low because it was stopped: beside scores of whole trainings it measures who was
    stopped. Without stopped trials these are the finished ones. Else they are the trials that reached the latest epoch
    that enough of them reached (half of them, but no more than 20 are asked for), by their scores up to that epoch.

    Args:
        trials: search trials; those without parameters (the base) or finite reports and failed ones are left out.
        mode: `max` or `min`.
        use_last: the score is the last value up to the epoch instead of the best.
    """
    usable = [t for t in trials if t.score is not None and t.parameters and t.reports and t.state != "failed"]
    finished = [t for t in usable if t.state == "finished"]
    if len(finished) == len(usable):
        return ComparableTrials(finished, f"{len(finished)} finished trials")
    needed = max(MIN_TRIALS, min(ENOUGH_TRIALS, math.ceil(len(usable) / 2)))
    reached = sorted((t.reports[-1].epoch for t in usable), reverse=True)
    epoch = reached[min(needed, len(reached)) - 1]
    chosen = []
    for trial in usable:
        values = [r.value for r in trial.reports if r.epoch <= epoch and math.isfinite(r.value)]
        if trial.reports[-1].epoch >= epoch and values:
            score = values[-1] if use_last else (max if mode == "max" else min)(values)
            chosen.append(trial.model_copy(update={"score": score}))
    return ComparableTrials(
        chosen,
        f"the {len(chosen)} of {len(usable)} trials that reached epoch {epoch}, by their scores up to it, because "
        "others were stopped earlier",
    )


def sweep_importance(
    space: SearchSpace, trials: Sequence[Trial], mode: str, use_last: bool = False
) -> tuple[Importance | None, ComparableTrials]:
    """`importance` over `comparable_trials`, and those trials."""
    compared = comparable_trials(trials, mode, use_last)
    found = importance(space, [t.parameters for t in compared.trials], [float(t.score or 0) for t in compared.trials])
    return found and replace(found, trials=len(compared.trials), basis=compared.basis), compared


def importance(
    space: SearchSpace, parameters: Sequence[Parameters], scores: Sequence[float], seed: int = 0
) -> Importance | None:
    """Permutation importance of each field, measured on held-out trials (5-fold).

    Returns:
        None with fewer than 8 trials, or when all scores are equal.
    """
    require_extra("plots", "the importance of settings", "sklearn")

    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    y = np.asarray(scores, dtype=np.float64)
    if len(y) < MIN_TRIALS or np.ptp(y) == 0:
        return None
    columns = {name: encoded(space, name, parameters) for name in space.fields}
    x = np.concatenate(list(columns.values()), axis=1)
    owner = np.concatenate([[i] * c.shape[1] for i, c in enumerate(columns.values())])
    rng = np.random.default_rng(seed)
    losses = np.zeros(len(columns) + 1)  # the last one: nothing shuffled
    repeats = 10
    for train, test in KFold(5, shuffle=True, random_state=seed).split(x):
        forest = RandomForestRegressor(200, random_state=seed, min_samples_leaf=2).fit(x[train], y[train])
        losses[-1] += np.square(forest.predict(x[test]) - y[test]).sum()
        for field in range(len(columns)):
            # Draw values from all trials: a small fold has too few to shuffle. One prediction for all repeats: it takes
            # as long as one of a single row.
            shuffled, drawn = np.tile(x[test], (repeats, 1)), rng.integers(len(x), size=repeats * len(test))
            shuffled[:, owner == field] = x[drawn][:, owner == field]
            losses[field] += np.square(forest.predict(shuffled) - np.tile(y[test], repeats)).sum() / repeats
    total = np.square(y - y.mean()).sum()
    shares = {name: float((losses[i] - losses[-1]) / total) for i, name in enumerate(columns)}
    return Importance(shares, float(1 - losses[-1] / total))


def encoded(space: SearchSpace, name: str, parameters: Sequence[Parameters]) -> np.ndarray:
    """A field as columns [trials, width]: its position in its range, or one column for each choice.

    −1 where the field does not apply to the trial.
    """
    choices = [v for r in space.ranges[name] if r.kind == "choice" for v in r.values]
    if choices:
        distinct = list(dict.fromkeys(map(repr, choices)))
        rows = [[float(name in p and repr(p[name]) == c) for c in distinct] for p in parameters]
        return np.asarray(rows)
    rows = []
    for p in parameters:
        chosen = space.active(name, p)
        rows.append([chosen.position(p[name]) if chosen is not None and name in p else -1.0])
    return np.asarray(rows)
