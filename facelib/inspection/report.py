"""A set's report: spreads of its measures, repeats, identities; as numbers, JSON and a table of several sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from facelib.inspection.identities import IdentityReport
from facelib.inspection.measures import MEASURES
from facelib.inspection.repeats import Repeats
from facelib.utils.optional import require_extra


@dataclass(frozen=True)
class Spread:
    """One measure over a set.

    Attributes:
        low, middle, high: 5, 50 and 95 % quantiles.
        between: share of the variance that lies between identities, 0 to 1, chance taken off; None without identities.
            Near 1 the measure tells people apart, near 0 it varies within everyone.
    """

    mean: float
    deviation: float
    low: float
    middle: float
    high: float
    between: float | None


def summarize(values: ArrayLike, identities: ArrayLike | None = None) -> Spread:
    """The spread of values [N] over the pictures of identities [N].

    Raises:
        ValueError: no values.
    """
    x = np.asarray(values, np.float64)
    if not x.size:
        raise ValueError("a spread needs at least one value")
    low, middle, high = np.quantile(x, [0.05, 0.5, 0.95])
    between = None if identities is None else _between(x, np.asarray(identities))
    return Spread(float(x.mean()), float(x.std()), float(low), float(middle), float(high), between)


@dataclass(frozen=True)
class SetReport:
    """Everything measured about one set.

    Attributes:
        counts: of the manifest (requested, aligned, rejected:<reason>), or pictures only.
        faces: how many were measured.
    """

    name: str
    counts: dict[str, int]
    faces: int
    measures: dict[str, Spread]
    repeats: Repeats
    identities: IdentityReport | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def numbers(self) -> dict[str, float]:
        """What a tracking store keeps: name -> number."""
        numbers = {f"{name}/{key}": value for name, s in self.measures.items() for key, value in asdict(s).items()}
        numbers |= {"repeats/within": self.repeats.within, "repeats/across": self.repeats.across}
        if self.identities is not None:
            plain = {k: v for k, v in asdict(self.identities).items() if isinstance(v, int | float)}
            numbers |= {f"identities/{name}": value for name, value in plain.items()}
        return {name: float(value) for name, value in numbers.items() if value is not None}


def compare_table(reports: Mapping[str, SetReport]) -> Any:
    """A Rich table, a column for each set."""
    require_extra("ray", "a results table", "rich")

    from rich.table import Table

    table = Table(title="mean ± deviation [5 % … 95 %], share between identities")
    table.add_column("measure")
    for name in reports:
        table.add_column(name, overflow="fold")
    for name, unit in MEASURES.items():
        cells = [_spread_text(r.measures.get(name)) for r in reports.values()]
        if any(cells):
            table.add_row(f"{name.replace('_', ' ')} ({unit})", *cells)
    table.add_section()
    table.add_row("faces measured", *(str(r.faces) for r in reports.values()))
    table.add_row("detected and aligned", *(_detected(r.counts) for r in reports.values()))
    table.add_row(
        "near copies within / across identities",
        *(f"{r.repeats.within} / {r.repeats.across}" for r in reports.values()),
    )
    found = [r.identities for r in reports.values()]
    if any(found):
        table.add_section()
        for label, text in _IDENTITY_ROWS.items():
            table.add_row(label, *("" if one is None else text.format(one) for one in found))
    return table


_IDENTITY_ROWS = {
    "identities judged": "{0.identities}",
    "genuine against impostor: AUC, EER": "{0.auc:.4f}, {0.eer:.2%}",
    "cosine genuine / impostor (d')": "{0.genuine:.3f} / {0.impostor:.3f} ({0.d_prime:.2f})",
    "nearest to its own identity (rank 1)": "{0.rank1:.1%}",
    "variance between identities": "{0.identity_share:.1%}",
    "dimensions that identities fill": "{0.dimensions:.1f}",
    "most similar other identity, 5 / 50 / 95 %": (
        "{0.nearest_other[0]:.2f} / {0.nearest_other[1]:.2f} / {0.nearest_other[2]:.2f}"
    ),
}


def _spread_text(s: Spread | None) -> str:
    if s is None:
        return ""
    between = "" if s.between is None else f", {s.between:.0%}"
    return f"{s.mean:.4g} ± {s.deviation:.3g} [{s.low:.4g} … {s.high:.4g}]{between}"


def _detected(counts: Mapping[str, int]) -> str:
    if "requested" not in counts:
        return "not known"
    reasons = ", ".join(f"{k.partition(':')[2]} {v}" for k, v in counts.items() if k.startswith("rejected:"))
    share = counts["aligned"] / max(counts["requested"], 1)
    return f"{counts['aligned']} of {counts['requested']}, {share:.2%}" + (f" ({reasons})" if reasons else "")


def _between(x: np.ndarray, identities: np.ndarray) -> float | None:
    """Intraclass correlation of a one-way analysis of variance, for groups of any size."""
    _, inverse, counts = np.unique(identities, return_inverse=True, return_counts=True)
    groups, total = len(counts), len(x)
    if groups < 2 or total == groups:
        return None
    means = np.bincount(inverse, x) / counts
    inside = float(((x - means[inverse]) ** 2).sum()) / (total - groups)
    among = float((counts * (means - x.mean()) ** 2).sum()) / (groups - 1)
    size = (total - float((counts**2).sum()) / total) / (groups - 1)
    denominator = among + (size - 1) * inside
    return 0.0 if denominator <= 0 else float(np.clip((among - inside) / denominator, 0, 1))
