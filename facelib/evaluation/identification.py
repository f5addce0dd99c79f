"""1:N identification: closed-set rank-k rates and open-set TPIR at FPIR, as IJB-B and IJB-C define them.

Every probe is searched in a gallery of one template per subject. A search is mated when the gallery holds the probe's
subject. Rank-k: share of mated searches whose mate is among the k best. FPIR: share of non-mated searches with any
candidate at or above the threshold; TPIR: share of mated searches whose mate comes first and lies at or above it. The
threshold keeps FPIR at or below its target. With several galleries (IJB has two of disjoint subjects) the rates are
averaged, as the protocol asks.

Shape legend: G gallery templates, Q probes, D embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import as_float, as_numpy, check_finite
from facelib.evaluation.bootstrap import accepted_counts, strictly_accepted
from facelib.evaluation.report import EvaluationOptions, bracket, plain_intervals
from facelib.evaluation.resampling import (
    Counts,
    Interval,
    PairTable,
    Resampled,
    bin_edges,
    describe_resampling,
    resample,
    resampling_warnings,
)
from facelib.evaluation.roc import SortedScores, allowed_false_accepts
from facelib.utils.arrays import l2_normalize
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from rich.table import Table

BLOCK_BYTES = 64 * 2**20
# Below every cosine: the score of a mate that does not come first, which no threshold may accept.
NOT_FIRST = -2.0
MAX_BINS = 8192  # Of scores, in resamples.


@dataclass(frozen=True)
class GallerySearch:
    """What became of every probe in one gallery.

    Attributes:
        gallery: number of gallery templates.
        ranks: of the mate among mated searches, 1 is best, int64 [mated]. Equal scores count against the mate.
        mates: score of the mate, float [mated].
        strangers: best score of each non-mated search, float [non-mated].
        mate_subjects, stranger_subjects: subject of each search, integers; None: unknown.
    """

    gallery: int
    ranks: NDArray[np.int64]
    mates: NDArray[Any]
    strangers: NDArray[Any]
    mate_subjects: NDArray[Any] | None = None
    stranger_subjects: NDArray[Any] | None = None

    def first_scores(self) -> SortedScores:
        """Scores of mates that come first against the best candidates of strangers, both ascending."""
        mates = np.where(self.ranks == 1, self.mates, np.asarray(NOT_FIRST, self.mates.dtype))
        return SortedScores(np.sort(mates), np.sort(self.strangers))


@dataclass(frozen=True)
class IdentificationReport:
    """Identification rates, 0 to 1, averaged over the galleries.

    Attributes:
        gallery, mated, nonmated: sizes, one number per gallery.
        rank: identification rate by rank k.
        tpir_at_fpir: TPIR by target FPIR; empty without non-mated searches.
        intervals: 95 % bootstrap intervals: "rank1", "tpir@fpir=0.01" and so on.
        identities: subjects of the probes, which intervals resample; None: unknown, intervals resample probes.
        warnings: what a reader must know before trusting a number.
    """

    gallery: list[int]
    mated: list[int]
    nonmated: list[int]
    rank: dict[int, float]
    tpir_at_fpir: dict[float, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    identities: int | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def resampling(self) -> str:
        """What the intervals rest on."""
        return describe_resampling(self.identities)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        names = ("gallery", "mated", "nonmated", "identities", "resampling", "warnings")
        return {
            **{name: getattr(self, name) for name in names},
            "rank": {str(rank): value for rank, value in self.rank.items()},
            "tpir_at_fpir": {f"{fpir:g}": value for fpir, value in self.tpir_at_fpir.items()},
            "intervals": plain_intervals(self.intervals),
        }

    def metrics(self) -> dict[str, float]:
        """Rank rates and TPIRs."""
        ranks = {f"rank_{rank}": value for rank, value in self.rank.items()}
        return ranks | {f"tpir_at_fpir_{fpir:g}": value for fpir, value in self.tpir_at_fpir.items()}

    @staticmethod
    def tables(name: str, reports: Mapping[str, IdentificationReport]) -> list[Table]:
        """One table, a row per model."""
        require_extra("ray", "a results table", "rich")

        from rich.markup import escape
        from rich.table import Table

        first = next(iter(reports.values()))
        sizes = ", ".join(f"{m:,} mated and {n:,} non-mated searches in {g:,}" for g, m, n in zip(
            first.gallery, first.mated, first.nonmated, strict=True))  # fmt: skip
        table = Table(title=f"{escape(name)}: {sizes}", caption=f"brackets: 95 % intervals, {first.resampling}")
        table.add_column("model", no_wrap=True)
        for rank in first.rank:
            table.add_column(f"rank-{rank} %", justify="right", no_wrap=True)
        for fpir in first.tpir_at_fpir:
            table.add_column(f"TPIR % at FPIR {fpir:g}", justify="right", no_wrap=True)
        for model, report in reports.items():
            cells = [(report.rank[rank], f"rank{rank}") for rank in first.rank]
            cells += [(report.tpir_at_fpir[fpir], f"tpir@fpir={fpir:g}") for fpir in first.tpir_at_fpir]
            texts = [f"{100 * value:.2f}" + bracket(report.intervals.get(key), 2, 100) for value, key in cells]
            table.add_row(escape(model), *texts)
        return [table]


def search_gallery(gallery: Any, gallery_subjects: Any, probes: Any, probe_subjects: Any) -> GallerySearch:
    """Search every probe in a gallery by cosine similarity.

    Args:
        gallery: template features [G, D].
        gallery_subjects: subject number of each, integers [G], all different.
        probes: features [Q, D].
        probe_subjects: subject of each probe, integers [Q].

    Raises:
        ValueError: shapes that do not match, values that are not finite, a subject that is in the gallery twice, an
            empty gallery.
    """
    sides = []
    for name, features, subjects in (
        ("gallery", gallery, gallery_subjects),
        ("probes", probes, probe_subjects),
    ):
        array, numbers = as_float(features, name), as_numpy(subjects)
        if array.ndim != 2 or numbers.shape != array.shape[:1] or numbers.dtype.kind not in "iu":
            raise ValueError(
                f"{name} must be features [N, D] with N whole subject numbers, got {list(array.shape)} and "
                f"{numbers.dtype} {list(numbers.shape)}"
            )
        check_finite(array, name)
        sides.append((l2_normalize(array), numbers))
    (gallery, owners), (probes, wanted) = sides
    known, column_of = np.unique(owners, return_index=True)
    if len(known) < len(owners) or len(owners) == 0:
        twice = next((int(s) for s in known if np.sum(owners == s) > 1), None)
        reason = "is empty" if twice is None else f"holds subject {twice} more than once"
        raise ValueError(f"gallery {reason}; identification needs one template of each subject")
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    mated = known[place] == wanted
    column = column_of[place]
    ranks, mates, strangers = [], [], []
    block = max(1, BLOCK_BYTES // (len(gallery) * gallery.itemsize))
    for begin in range(0, len(probes), block):
        scores = probes[begin : begin + block] @ gallery.T
        inside = mated[begin : begin + block]
        strangers.append(scores[~inside].max(axis=1, initial=-np.inf))
        scores = scores[inside]
        mate = np.take_along_axis(scores, column[begin : begin + block][inside, None], axis=1)
        ranks.append(np.sum(scores >= mate, axis=1))
        mates.append(mate[:, 0])
    empty = np.empty(0, gallery.dtype)
    return GallerySearch(
        len(gallery),
        np.concatenate([np.empty(0, np.int64), *ranks]),
        np.concatenate([empty, *mates]),
        np.concatenate([empty, *strangers]),
        wanted[mated],
        wanted[~mated],
    )


def evaluate_identification(galleries: Sequence[GallerySearch], measures: EvaluationOptions) -> IdentificationReport:
    """Rates of the searches, averaged over galleries, with intervals over the probes' subjects.

    A resample draws subjects, each with all its probes, the same ones for every gallery; galleries stay as they are.

    Raises:
        ValueError: no gallery, a gallery without a mated search, a rank below 1 or an FPIR outside (0, 1).
    """
    if not galleries or any(len(g.ranks) == 0 for g in galleries):
        raise ValueError("galleries: each needs at least one probe whose subject it holds")
    if min(measures.ranks, default=1) < 1 or not all(0 < fpir < 1 for fpir in measures.fpirs):
        raise ValueError(f"ranks {measures.ranks} must be 1 or more, fpirs {measures.fpirs} between 0 and 1")
    fpirs = measures.fpirs if all(len(g.strangers) for g in galleries) else ()
    rank = {k: float(np.mean([np.mean(g.ranks <= k) for g in galleries])) for k in measures.ranks}
    tpir = np.mean([g.first_scores().strict_tar(np.array(fpirs)) for g in galleries], axis=0) if fpirs else []
    tpir_at_fpir = dict(zip(fpirs, map(float, tpir), strict=True))
    intervals: dict[str, Interval] = {}
    warnings = _warnings(galleries, measures.fpirs)
    table, cells = _table(galleries, measures.ranks)
    if measures.bootstrap:
        ranks, tpirs = _resampled_rates(table, cells, list(rank), fpirs, measures)
        intervals = {f"rank{k}": ranks[column].interval(value) for column, (k, value) in enumerate(rank.items())}
        for column, (fpir, value) in enumerate(tpir_at_fpir.items()):
            intervals[f"tpir@fpir={fpir:g}"] = tpirs[column].interval(value)
        if table.identities is not None:
            warnings += resampling_warnings(table.identities, 0, 0)
    return IdentificationReport(
        gallery=[g.gallery for g in galleries],
        mated=[len(g.ranks) for g in galleries],
        nonmated=[len(g.strangers) for g in galleries],
        rank=rank,
        tpir_at_fpir=tpir_at_fpir,
        intervals=intervals,
        identities=table.identities,
        warnings=warnings,
    )


def _table(galleries: Sequence[GallerySearch], ranks: Sequence[int]) -> tuple[PairTable, int]:
    """Searches in cells: non-mated and mated ones of each gallery by score, mates that are not first by rank, below.

    Returns:
        The table [2 * galleries, K], and the number of cells for ranks: one more than there are `ranks` above 1.
    """
    later = [k for k in ranks if k > 1]
    below = len(later) + 1
    cells: list[NDArray[Any]] = []
    subjects: list[NDArray[Any] | None] = []
    edges = [bin_edges(g.first_scores(), MAX_BINS) if len(g.strangers) else np.zeros(1) for g in galleries]
    width = below + max(map(len, edges))
    for number, (g, limits) in enumerate(zip(galleries, edges, strict=True)):
        by_rank = np.sum([g.ranks <= k for k in later], axis=0) if later else np.zeros(len(g.ranks), np.int64)
        bins = [below + np.maximum(np.searchsorted(limits, s, "right") - 1, 0) for s in (g.strangers, g.mates)]
        bins[1] = np.where(g.ranks == 1, bins[1], by_rank)
        cells += [bins[kind] + (2 * number + kind) * width for kind in (0, 1)]
        subjects += [g.stranger_subjects, g.mate_subjects]
    known = [s for s in subjects if s is not None]
    sides = np.repeat(np.concatenate(known)[:, None], 2, axis=1) if len(known) == len(subjects) else None
    shape = (2 * len(galleries), width)
    return PairTable.of_cells(np.concatenate(cells), shape, sides, kinds=shape[0]), below


def _resampled_rates(
    table: PairTable, below: int, ranks: Sequence[int], fpirs: Sequence[float], measures: EvaluationOptions
) -> tuple[Resampled, Resampled]:
    """Rank rates [B, ranks] and TPIR [B, fpirs], averaged over galleries, of resampled searches."""
    width = table.counts.shape[1]
    starts = [below if k == 1 else sum(later >= k for later in ranks) for k in ranks]

    def rates(counts: Counts) -> tuple[NDArray[Any], NDArray[Any]]:
        found = []
        for number in range(0, counts.shape[1], 2):
            mates = accepted_counts(counts[:, number + 1])
            strangers = accepted_counts(counts[:, number])
            by_rank = mates[:, [width - start for start in starts]] / mates[:, -1:]
            accepted = np.minimum(strictly_accepted(strangers, np.array(fpirs)), width - below)
            found.append((by_rank, np.take_along_axis(mates, accepted, axis=1) / mates[:, -1:]))
        by_rank, tpir = (np.mean(column, axis=0) for column in zip(*found, strict=True))
        return by_rank, tpir

    drawn = resample([table], rates, measures.bootstrap, measures.seed)
    return drawn[0], drawn[1]


def _warnings(galleries: Sequence[GallerySearch], fpirs: Sequence[float]) -> list[str]:
    fewest = min(len(g.strangers) for g in galleries)
    if fewest == 0:
        return ["a gallery holds the subjects of all probes: FPIR cannot be measured, TPIR is left out"]
    return [
        f"FPIR {fpir:g} rests on {allowed} of {fewest:,} non-mated searches: unreliable"
        for fpir, allowed in zip(fpirs, allowed_false_accepts(fpirs, fewest).tolist(), strict=True)
        if allowed < 10
    ]
