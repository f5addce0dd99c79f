"""How sure a sweep's result is: finalists over seeds, and which of the searched fields mattered.

A trial's score is one draw: another seed gives another number, and the best of many is best partly by luck. So
finalists are trained again with seeds the search has not seen, the same ones for each, and are compared seed by seed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from facelib.tuning.space import Parameters, SearchSpace
from facelib.utils.optional import require_extra

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval (Student's t); no interval (nan) for a single value."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """The winner minus another finalist, on the same seeds.

    Args:
        p: of a two-sided paired t test, multiplied as Holm's procedure wants it for several comparisons.
    """

    other: int
    difference: Estimate
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance explains, at 5 % over all comparisons together."""
        return self.p < 1 - CONFIDENCE


@dataclass(frozen=True)
class Verdict:
    """The finalists' result.

    Args:
        winner: trial with the best mean.
        finalists: estimate by trial number, best first.
        comparisons: the winner with every other finalist.
    """

    winner: int
    finalists: dict[int, Estimate]
    comparisons: list[Comparison]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and t interval."""
    from scipy.stats import t

    mean = float(np.mean(values))
    if len(values) < 2:
        return Estimate(mean, math.nan, math.nan, len(values))
    margin = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return Estimate(mean, mean - margin, mean + margin, len(values))


def judge(scores: Mapping[int, Mapping[int, float]], mode: str) -> Verdict | None:
    """Winner and comparisons of finalists.

    Args:
        scores: {trial: {seed: score}}; a finalist some of whose repeats failed is compared on the seeds it has.
        mode: `max` or `min`.

    Returns:
        None when no finalist has a score.
    """
    scored = {n: s for n, s in scores.items() if s}
    if not scored:
        return None
    sign = -1 if mode == "max" else 1
    estimates = {n: estimate(list(s.values())) for n, s in scored.items()}
    ranked = sorted(estimates, key=lambda n: sign * estimates[n].mean)
    winner = ranked[0]
    raw = []
    for other in ranked[1:]:
        common = sorted(scored[winner].keys() & scored[other].keys())
        differences = [scored[winner][s] - scored[other][s] for s in common]
        raw.append((other, differences, paired_p(differences)))
    adjusted = holm([p for _, _, p in raw])
    comparisons = [
        Comparison(other, estimate(d) if d else Estimate(math.nan, math.nan, math.nan, 0), p)
        for (other, d, _), p in zip(raw, adjusted)
    ]
    return Verdict(winner, {n: estimates[n] for n in ranked}, comparisons)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t test; 1 when there are too few pairs to say anything."""
    from scipy.stats import t

    if len(differences) < 2:
        return 1.0
    spread = float(np.std(differences, ddof=1))
    if spread == 0:
        return 1.0 if np.mean(differences) == 0 else 0.0
    statistic = float(np.mean(differences)) / (spread / math.sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[int(index)] = largest
    return adjusted


@dataclass(frozen=True)
class Importance:
    """How much a forest's prediction of unseen trials suffers when a field's values are shuffled.

    Args:
        shares: by field, in units of the scores' variance; about 0: it did not matter, or too few trials to tell.
        explained: share of the variance of unseen trials that the forest predicts (R²); at 0 or below the shares
            mean nothing.
    """

    shares: dict[str, float]
    explained: float


def importance(
    space: SearchSpace, parameters: Sequence[Parameters], scores: Sequence[float], seed: int = 0
) -> Importance | None:
    """Permutation importance of each field, measured on trials the forest has not seen (5-fold).

    Returns:
        None with fewer than 8 trials, or when all scores are equal.
    """
    require_extra("plots", "the importance of settings", "sklearn")

    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    y = np.asarray(scores, dtype=np.float64)
    if len(y) < 8 or np.ptp(y) == 0:
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
            for _ in range(repeats):
                # Values come from all trials: a fold of three has little to shuffle.
                shuffled = x[test].copy()
                shuffled[:, owner == field] = x[rng.integers(len(x), size=len(test))][:, owner == field]
                losses[field] += np.square(forest.predict(shuffled) - y[test]).sum() / repeats
    total = np.square(y - y.mean()).sum()
    shares = {name: float((losses[i] - losses[-1]) / total) for i, name in enumerate(columns)}
    return Importance(shares, float(1 - losses[-1] / total))


def encoded(space: SearchSpace, name: str, parameters: Sequence[Parameters]) -> np.ndarray:
    """A field as columns [trials, width]: its position in its range, or one column for each choice.

    −1 stands for a field that does not apply to a trial.
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
