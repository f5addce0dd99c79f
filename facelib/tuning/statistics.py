"""Statistics of a sweep: finalists compared over seeds, and the importance of the searched fields.

A trial's score varies with its seed, and the best of many scores is biased upward. So finalists are trained again
with seeds not used in the search, the same seeds for each finalist, and are compared seed by seed.
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
class PairedComparison:
    """The winner against another finalist, on the same seeds.

    Args:
        other: number of the other trial.
        difference: winner minus other.
        p: p value of a two-sided paired t test, Holm-adjusted for the number of comparisons.
    """

    other: int
    difference: Estimate
    p: float

    @property
    def significant(self) -> bool:
        """Whether the difference is significant at 5 % (family-wise, over all comparisons)."""
        return self.p < 1 - CONFIDENCE


@dataclass(frozen=True)
class FinalistComparison:
    """Result of the comparison of finalists.

    Args:
        winner: trial with the best mean.
        finalists: estimate by trial number, best first.
        comparisons: the winner against every other finalist.
    """

    winner: int
    finalists: dict[int, Estimate]
    comparisons: list[PairedComparison]


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
        PairedComparison(other, estimate(d) if d else Estimate(math.nan, math.nan, math.nan, 0), p)
        for (other, d, _), p in zip(raw, adjusted)
    ]
    return FinalistComparison(winner, {n: estimates[n] for n in ranked}, comparisons)


def paired_p(differences: Sequence[float]) -> float:
    """Two-sided p of a paired t test; 1 with fewer than two pairs."""
    from scipy.stats import t

    if len(differences) < 2:
        return 1.0
    deviation = float(np.std(differences, ddof=1))
    if deviation == 0:
        return 1.0 if np.mean(differences) == 0 else 0.0
    statistic = float(np.mean(differences)) / (deviation / math.sqrt(len(differences)))
    return float(2 * t.sf(abs(statistic), len(differences) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p values, in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[int(index)] = largest
    return adjusted


@dataclass(frozen=True)
class Importance:
    """Permutation importance: how much worse a random forest predicts unseen trials with a field's values shuffled.

    Args:
        shares: by field, as a share of the variance of scores; about 0: no effect, or too few trials to detect one.
        explained: share of the variance of unseen trials that the forest predicts (R²); at 0 or below the shares
            are meaningless.
    """

    shares: dict[str, float]
    explained: float


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
                # Draw values from all trials: a small fold has too few to shuffle.
                shuffled = x[test].copy()
                shuffled[:, owner == field] = x[rng.integers(len(x), size=len(test))][:, owner == field]
                losses[field] += np.square(forest.predict(shuffled) - y[test]).sum() / repeats
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
