"""Resampled counts of verification pairs, and the intervals that follow from them.

Every measure of pairs depends on their scores through counts between thresholds only: a resample is a table of counts.

Pairs share identities and are not independent. Where identities are known, they are resampled (the pigeonhole
bootstrap, Owen 2007): with w the number of times that each was drawn, a pair of one identity i counts w_i times, a pair
of two w_i * w_j times. That counts the noise of a pair of two identities itself three times (E[w_i^2 w_j^2] - 1 = 3),
where the variance of such pairs has it once (Aronow, Samii and Assenova 2015). So this noise is measured, by taking a
random half of all pairs of two identities twice, and two of the three parts are taken off the interval.
Where only pairs are known, pairs are resampled within their stratum, which treats them as independent.

Shape legend: P pairs, S strata, K cells (bins of scores) of a stratum, B resamples, I identities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.roc import SortedScores

PAIRS_ONLY = "pairs only, identities unknown"
MIN_PAIRS, MIN_IDENTITIES = 300, 20  # Below, intervals are not to be relied on.
CHUNK = 64  # Resamples computed together: one bit each of a 64-bit hash.
PAIRS_PER_BLOCK = 4096  # Weights [pairs, CHUNK] of a block fit in a core's cache.
# Above this number of pairs of a kind, the lower scores are thinned to every m-th, which counts m times.
MAX_PAIRS, TOP_PAIRS = 1_000_000, 250_000
ATTEMPTS = 100  # Draws until a resample holds pairs of both kinds.

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Interval:
    """Confidence interval [low, high] of a measure at confidence `level`."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True)
class Resampled:
    """A measure on every resample.

    Attributes:
        values: [B, ...].
        pair_noise: [C, ...], the measure with nothing but the pairs of two identities resampled; None: no identities.
        identities: effective number of the resampled identities, see `PairTable`; None: pairs were resampled.
    """

    values: NDArray[np.float64]
    pair_noise: NDArray[np.float64] | None = None
    identities: float | None = None

    def __sub__(self, other: Resampled) -> Resampled:
        """The difference of two models, resample by resample."""
        noise = None
        if self.pair_noise is not None and other.pair_noise is not None:
            noise = self.pair_noise - other.pair_noise
        return Resampled(self.values - other.values, noise, self.identities)

    def __getitem__(self, index: Any) -> Resampled:
        """The measure's part `index`, e.g. of one false accept rate."""
        noise = None if self.pair_noise is None else self.pair_noise[:, index]
        return Resampled(self.values[:, index], noise, self.identities)

    def map(self, function: Callable[[NDArray[np.float64]], Any]) -> Resampled:
        """`function` of every resample's values [B, ...]."""
        noise = None if self.pair_noise is None else function(self.pair_noise)
        return Resampled(function(self.values), noise, self.identities)

    def bounds(self, estimate: Any, level: float = 0.95) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bound [...] around the measure of all pairs, `estimate` [...].

        Over identities: percentiles as wide as Student's t asks for with so many identities (Hesterberg 2015), drawn
        toward the estimate by the share of the variance that stays without the surplus noise of pairs.
        """
        tail = expanded_tail(level, self.identities)
        low, high = np.quantile(self.values, [tail, 1 - tail], axis=0)
        if self.pair_noise is None:
            return low, high
        variance, noise = np.var(self.values, axis=0), np.var(self.pair_noise, axis=0)
        kept = np.clip(1 - 2 * noise / np.where(variance > 0, variance, 1), 1 / 3, 1) ** 0.5
        return estimate + kept * (low - estimate), estimate + kept * (high - estimate)

    def interval(self, estimate: float, level: float = 0.95) -> Interval:
        """`bounds` of a single number."""
        low, high = self.bounds(estimate, level)
        return Interval(float(low), float(high), level)


def expanded_tail(level: float, units: float | None = None) -> float:
    """Share of resamples to cut off on each side for an interval of `level` from `units` independent units."""
    if not 0 < level < 1:
        raise ValueError(f"level is {level!r}; a confidence level lies between 0 and 1, e.g. 0.95")
    if units is None:
        return (1 - level) / 2
    from scipy.stats import norm, t

    units = max(units, 2)
    return float(norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf((1 + level) / 2, units - 1)))


class PairTable:
    """Pairs counted in cells, from which tables of resampled counts are drawn.

    Args:
        counts: pairs in each cell [S, K]; strata alternate between impostor (even) and genuine pairs (odd).
        kinds: strata whose numbers are equal modulo `kinds` are not all empty in a resample, unless they are here.
        cells: cell of each pair in the raveled table, ascending, int [P]; read with `identities` only.
        identities: identity of each side of each pair, integers [P, 2]; None: unknown, pairs are resampled.
        times: how many pairs each entry of `cells` stands for, int [P]; None: one.

    Attributes:
        identities: number of identities; None: unknown.
        effective: (sum n_i)^2 / sum n_i^2 with n_i pairs of identity i, of the kind of pairs (of one identity, of two)
            where it is smaller: equals the number of identities where all have equally many pairs (Kish 1965).
    """

    def __init__(
        self,
        counts: Counts,
        cells: NDArray[Any] | None = None,
        identities: NDArray[Any] | None = None,
        times: NDArray[Any] | None = None,
        kinds: int = 2,
    ) -> None:
        self.counts, self.kinds = counts, kinds
        self.identities: int | None = None
        self.effective: float | None = None
        if cells is not None and identities is not None:
            known, numbers = np.unique(identities, return_inverse=True)
            self.identities = len(known)
            self._cells, self._times = cells, times
            self._first, self._second = np.ascontiguousarray(numbers.reshape(-1, 2).T)
            self.effective = self._effective_identities()

    @classmethod
    def of_scores(cls, scores: SortedScores, edges: NDArray[Any]) -> PairTable:
        """The impostor and the genuine pairs [2, K] in bins [edge, next edge), ascending; none lies below the first."""
        counts = np.stack([count_bins(part, edges) for part in (scores.impostors, scores.genuine)])
        if scores.impostor_identities is None or scores.genuine_identities is None:
            return cls(counts)
        members = []
        for stratum, names in enumerate((scores.impostor_identities, scores.genuine_identities)):
            rows, times = _thinned(len(names))
            cells = np.repeat(np.arange(len(edges)) + stratum * len(edges), counts[stratum])
            members.append((cells[rows], names[rows], times))
        cells, identities, times = (np.concatenate(column) for column in zip(*members, strict=True))
        return cls(counts, cells, identities, times)

    @classmethod
    def of_cells(
        cls, cells: NDArray[Any], shape: tuple[int, int], identities: NDArray[Any] | None = None, kinds: int = 2
    ) -> PairTable:
        """Pairs [P] by their cells in the raveled table [S, K], in any order."""
        counts = np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)
        if identities is None:
            return cls(counts, kinds=kinds)
        order = np.argsort(cells, kind="stable")
        return cls(counts, cells[order], identities[order], kinds=kinds)

    def _effective_identities(self) -> float:
        own = self._first == self._second
        found = []
        for chosen in (own, ~own):
            if chosen.any():
                each = None if self._times is None else np.tile(self._times[chosen], 2)
                sizes = np.bincount(np.concatenate([self._first[chosen], self._second[chosen]]), each).astype(float)
                found.append(float(sizes.sum() ** 2 / np.square(sizes).sum()))
        return min(found)

    def draw(self, resamples: int, seed: Sequence[int]) -> Iterator[Counts]:
        """Counts [size, S, K] of `resamples` resamples, chunk by chunk; a function of the seed, pairs and identities.

        Tables of the same pairs in other cells (another model's scores) get the same resamples.
        """
        for number, begin in enumerate(range(0, resamples, CHUNK)):
            size = min(CHUNK, resamples - begin)
            rng = np.random.default_rng([*seed, number])
            if self.identities is None:
                yield np.stack([resample_bins(rng, counts, size) for counts in self.counts], axis=1)
            else:
                yield self._valid(map(self._weigh, _multiplicities(rng, self.identities)))[:size]

    def draw_noise(self, resamples: int, seed: Sequence[int]) -> Iterator[Counts]:
        """The same with nothing resampled but pairs of two identities; unchanged counts where none are known."""
        for number, begin in enumerate(range(0, resamples, CHUNK)):
            size = min(CHUNK, resamples - begin)
            if self.identities is None:
                yield np.broadcast_to(self.counts, (size, *self.counts.shape))
            else:
                keys = np.random.default_rng([*seed, number, 1]).integers(0, 2**63, ATTEMPTS, dtype=np.uint64)
                yield self._valid(map(self._halve, keys))[:size]

    def _valid(self, draws: Iterator[Counts]) -> Counts:
        """Counts [CHUNK, S, K] with pairs of all kinds in every resample; those without are drawn again."""
        counts = next(draws)
        while (empty := (self._totals(counts) == 0) & (self._totals(self.counts[None]) > 0)).any():
            lacking = empty.any(axis=1)
            again = next(draws, None)
            if again is None:  # So few identities that hardly a draw has all kinds; the report warns of that.
                counts[lacking] = self.counts
                break
            counts[lacking] = again[lacking]
        return counts

    def _totals(self, counts: Counts) -> Counts:
        """Pairs of each kind, [b, kinds]."""
        return counts.sum(axis=2).reshape(len(counts), -1, self.kinds).sum(axis=1)

    def _weigh(self, drawn: NDArray[np.float32]) -> Counts:
        """Counts [CHUNK, S, K] of identities drawn so many times, [I, CHUNK]."""

        def weights(rows: slice) -> NDArray[np.float32]:
            first, second = self._first[rows], self._second[rows]
            product = drawn[first] * drawn[second]
            same = first == second
            product[same] = drawn[first[same]]
            return product

        return self._count(weights)

    def _halve(self, key: np.uint64) -> Counts:
        """Counts [CHUNK, S, K] where each pair of two identities counts twice or not at all, whatever its images."""

        def weights(rows: slice) -> NDArray[np.float32]:
            first, second = self._first[rows].astype(np.uint64), self._second[rows].astype(np.uint64)
            low, high = np.minimum(first, second), np.maximum(first, second)
            bits = np.unpackbits(_hashed(low << np.uint64(32) | high, key).view(np.uint8)).reshape(-1, CHUNK)
            kept = bits.astype(np.float32) * 2
            kept[first == second] = 1
            return kept

        return self._count(weights)

    def _count(self, weights_of: Callable[[slice], NDArray[np.float32]]) -> Counts:
        """Counts [CHUNK, S, K] from the weights [pairs, CHUNK] of each block of pairs."""
        total = np.zeros((self.counts.size, CHUNK))
        for begin in range(0, len(self._cells), PAIRS_PER_BLOCK):
            rows = slice(begin, begin + PAIRS_PER_BLOCK)
            weights, cells = weights_of(rows), self._cells[rows]
            if self._times is not None:
                weights *= self._times[rows, None]
            starts = np.flatnonzero(np.diff(cells, prepend=-1))
            total[cells[starts]] += np.add.reduceat(weights, starts, axis=0)
        return np.ascontiguousarray(total.T).astype(np.int64).reshape(CHUNK, *self.counts.shape)


def resample(
    tables: Sequence[PairTable],
    measures: Callable[..., Sequence[NDArray[Any]]],
    resamples: int,
    seed: int,
) -> list[Resampled]:
    """Measures of resamples of one or several independent sets of pairs.

    Args:
        measures: function of the counts [b, S, K] of each table, giving an array [b, ...] for each measure.
        resamples: number of resamples B.
        seed: of the random numbers.

    Raises:
        ValueError: no resample asked for, or too few identities.
    """
    check_resamples(resamples)

    def values(draws: Sequence[Iterator[Counts]]) -> list[NDArray[Any]]:
        parts = [measures(*counts) for counts in zip(*draws, strict=True)]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    drawn = values([table.draw(resamples, [seed, number]) for number, table in enumerate(tables)])
    known = [table.effective for table in tables if table.effective is not None]
    if not known:
        return [Resampled(column) for column in drawn]
    # A variance needs fewer resamples than the tails of a distribution.
    few = max(resamples // 4, min(resamples, 2 * CHUNK))
    noise = values([table.draw_noise(few, [seed, number]) for number, table in enumerate(tables)])
    return [Resampled(*columns, min(known)) for columns in zip(drawn, noise, strict=True)]


def describe_resampling(identities: int | None) -> str:
    """What intervals rest on, in tables, reports and MLflow."""
    return PAIRS_ONLY if identities is None else f"over {identities:,} identities"


def resampling_warnings(identities: int | None, genuine: int, impostors: int) -> list[str]:
    """What a reader of intervals must know: too few identities, or too few pairs where only pairs are known."""
    if identities is not None:
        few = identities < MIN_IDENTITIES
        return [f"intervals rest on {identities} identities, fewer than {MIN_IDENTITIES}: unreliable"] * few
    return [
        f"intervals rest on {PAIRS_ONLY}, and on {count} {kind} pairs, fewer than {MIN_PAIRS}: too narrow"
        for kind, count in (("genuine", genuine), ("impostor", impostors))
        if count < MIN_PAIRS
    ]


def check_resamples(resamples: int) -> None:
    """Raise ValueError unless there is at least one resample."""
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; a bootstrap needs at least 1 (1000 is usual)")


def resample_bins(rng: np.random.Generator, counts: Counts, size: int) -> Counts:
    """`size` bootstrap draws of the pairs counted in bins [K] -> [size, K]."""
    used = np.flatnonzero(counts)
    total = int(counts.sum())
    if total <= 4 * len(used):
        # With few pairs a bin, drawing pairs and counting them is several times faster than a binomial for each bin.
        bin_of_pair = np.repeat(np.arange(len(counts)), counts)
        chosen = bin_of_pair[rng.integers(0, max(total, 1), (size, total))]
        chosen += np.arange(size)[:, None] * len(counts)
        return np.bincount(chosen.ravel(), minlength=size * len(counts)).reshape(size, len(counts))
    drawn = np.zeros((size, len(counts)), dtype=np.int64)
    drawn[:, used] = rng.multinomial(total, counts[used] / total, size=size)
    return drawn


def bin_edges(scores: SortedScores, max_bins: int) -> NDArray[Any]:
    """Ascending lower edges of the bins [K]; every score lies at or above the first.

    With up to `max_bins` pairs the bins are the scores; with more they are single impostor scores at the top, where
    small false accept rates are decided, and grow toward the bulk.
    """
    everything = (scores.genuine, scores.impostors)
    if len(scores.genuine) + len(scores.impostors) <= max_bins:
        return np.unique(np.concatenate(everything))
    quarter = max_bins // 4
    count = len(scores.impostors)
    # The highest impostors one by one (two edges each, so that no genuine score shares a bin), then ever wider steps.
    single = np.arange(min(count, quarter // 2))
    ranks = np.unique(np.geomspace(max(1, len(single)), count, quarter).astype(np.int64)) - 1
    top = scores.impostors[count - 1 - single]
    tail = scores.impostors[count - 1 - ranks]
    grids = [part[np.linspace(0, len(part) - 1, quarter).astype(np.int64)] for part in everything]
    lowest = [part[:1] for part in everything]
    return np.unique(np.concatenate([top, np.nextafter(top, np.inf, dtype=top.dtype), tail, *grids, *lowest]))


def count_bins(scores: NDArray[Any], edges: NDArray[Any]) -> Counts:
    """Number of the ascending scores in each bin [edge, next edge)."""
    return np.diff(np.append(np.searchsorted(scores, edges, side="left"), len(scores)))


def _multiplicities(rng: np.random.Generator, count: int) -> Iterator[NDArray[np.float32]]:
    """How often each of `count` identities is drawn in CHUNK draws of `count`, [count, CHUNK]; ATTEMPTS times anew."""
    for _ in range(ATTEMPTS):
        drawn = rng.integers(0, count, (CHUNK, count)) + np.arange(CHUNK)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=CHUNK * count).reshape(CHUNK, count)
        yield np.ascontiguousarray(times.T, dtype=np.float32)


def _hashed(numbers: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """64 random bits for each number: the finalizer of SplitMix64 (Steele et al. 2014)."""
    mixed = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) ^ key
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))


def _thinned(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of `count` ascending scores that are resampled, and how many each stands for."""
    if count <= MAX_PAIRS:
        return np.arange(count), np.ones(count, np.int64)
    rest = count - TOP_PAIRS
    step = -(-rest // (MAX_PAIRS - TOP_PAIRS))
    starts = np.arange(0, rest, step)
    sizes = np.diff(np.append(starts, rest))
    rows = np.concatenate([starts + sizes // 2, np.arange(rest, count)])
    return rows, np.concatenate([sizes, np.ones(TOP_PAIRS, np.int64)])
