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
from facelib.evaluation.bootstrap import Interval, bootstrap_sorted, percentile_interval
from facelib.evaluation.report import EvaluationOptions, bracket, plain_intervals
from facelib.evaluation.roc import SortedScores, allowed_false_accepts
from facelib.utils.arrays import l2_normalize
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from rich.table import Table

BLOCK_BYTES = 64 * 2**20
# Below every cosine: the score of a mate that does not come first, which no threshold may accept.
NOT_FIRST = -2.0


@dataclass(frozen=True)
class GallerySearch:
    """What became of every probe in one gallery.

    Attributes:
        gallery: number of gallery templates.
        ranks: of the mate among mated searches, 1 is best, int64 [mated]. Equal scores count against the mate.
        mates: score of the mate, float [mated].
        strangers: best score of each non-mated search, float [non-mated].
    """

    gallery: int
    ranks: NDArray[np.int64]
    mates: NDArray[Any]
    strangers: NDArray[Any]


@dataclass(frozen=True)
class IdentificationReport:
    """Identification rates, 0 to 1, averaged over the galleries.

    Attributes:
        gallery, mated, nonmated: sizes, one number per gallery.
        rank: identification rate by rank k.
        tpir_at_fpir: TPIR by target FPIR; empty without non-mated searches.
        intervals: 95 % bootstrap intervals over probes: "rank1", "tpir@fpir=0.01" and so on.
        warnings: what a reader must know before trusting a number.
    """

    gallery: list[int]
    mated: list[int]
    nonmated: list[int]
    rank: dict[int, float]
    tpir_at_fpir: dict[float, float]
    intervals: dict[str, Interval] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **{name: getattr(self, name) for name in ("gallery", "mated", "nonmated", "warnings")},
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
        table = Table(title=f"{escape(name)}: {sizes}", caption="brackets: 95 % intervals over probes")
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
    )


def evaluate_identification(galleries: Sequence[GallerySearch], measures: EvaluationOptions) -> IdentificationReport:
    """Rates of the searches, averaged over galleries, with intervals; galleries are resampled separately.

    Raises:
        ValueError: no gallery, a gallery without a mated search, a rank below 1 or an FPIR outside (0, 1).
    """
    if not galleries or any(len(g.ranks) == 0 for g in galleries):
        raise ValueError("galleries: each needs at least one probe whose subject it holds")
    if min(measures.ranks, default=1) < 1 or not all(0 < fpir < 1 for fpir in measures.fpirs):
        raise ValueError(f"ranks {measures.ranks} must be 1 or more, fpirs {measures.fpirs} between 0 and 1")
    parts = [_gallery_rates(g, measures, seed) for seed, g in enumerate(galleries)]
    keys = [key for key in parts[0] if all(key in part for part in parts)]
    values = {key: float(np.mean([part[key][0] for part in parts])) for key in keys}
    intervals = {}
    if measures.bootstrap:
        for key in keys:
            intervals[key] = percentile_interval(np.mean([part[key][1] for part in parts], axis=0))
    fpirs = [fpir for fpir in measures.fpirs if f"tpir@fpir={fpir:g}" in values]
    return IdentificationReport(
        gallery=[g.gallery for g in galleries],
        mated=[len(g.ranks) for g in galleries],
        nonmated=[len(g.strangers) for g in galleries],
        rank={rank: values[f"rank{rank}"] for rank in measures.ranks},
        tpir_at_fpir={fpir: values[f"tpir@fpir={fpir:g}"] for fpir in fpirs},
        intervals=intervals,
        warnings=_warnings(galleries, measures.fpirs),
    )


def _gallery_rates(
    searches: GallerySearch, measures: EvaluationOptions, number: int
) -> dict[str, tuple[float, NDArray[Any]]]:
    """Rate and its resamples [B] by name, of one gallery."""
    seed = measures.seed * 1000 + number
    rng = np.random.default_rng([seed, 2])
    rates = {}
    count = len(searches.ranks)
    for rank in measures.ranks:
        rate = float(np.mean(searches.ranks <= rank))
        rates[f"rank{rank}"] = (rate, rng.binomial(count, rate, max(1, measures.bootstrap)) / count)
    if len(searches.strangers):
        # TPIR at FPIR is TAR at FAR of mates that come first against the best candidates of strangers.
        mates = np.where(searches.ranks == 1, searches.mates, np.asarray(NOT_FIRST, searches.mates.dtype))
        scores = SortedScores(np.sort(mates), np.sort(searches.strangers))
        targets = np.array(measures.fpirs)
        drawn = bootstrap_sorted(scores, targets, max(1, measures.bootstrap), seed).tar
        for column, (fpir, tpir) in enumerate(zip(measures.fpirs, scores.strict_tar(targets), strict=True)):
            rates[f"tpir@fpir={fpir:g}"] = (float(tpir), drawn[:, column])
    return rates


def _warnings(galleries: Sequence[GallerySearch], fpirs: Sequence[float]) -> list[str]:
    fewest = min(len(g.strangers) for g in galleries)
    if fewest == 0:
        return ["a gallery holds the subjects of all probes: FPIR cannot be measured, TPIR is left out"]
    return [
        f"FPIR {fpir:g} rests on {allowed} of {fewest:,} non-mated searches: unreliable"
        for fpir, allowed in zip(fpirs, allowed_false_accepts(fpirs, fewest).tolist(), strict=True)
        if allowed < 10
    ]
