"""Plots of a sweep: metric over trials and time, parallel coordinates, importance, heat map, finalists, schedules.

Every function writes one PNG file atomically and returns its path.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from facelib.plots.style import COLORS, PathLike, save, tidy
from facelib.tuning.space import SearchSpace
from facelib.tuning.statistics import FinalistComparison, Importance
from facelib.tuning.trials import Trial
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = {"finished": "o", "stopped": "v", "failed": "x", "open": "s"}
STRENGTH = ("augment.num_ops", "augment.magnitude")


def plot_history(trials: Sequence[Trial], path: PathLike, metric: str, mode: str) -> Path:
    """Score of each trial and the best so far, over trials and over the sweep's run time, and the learning curves."""
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    by_number, by_time, by_epoch = (figure.add_subplot(1, 3, i) for i in (1, 2, 3))
    scored = [t for t in trials if t.score is not None and t.reports]
    order = sorted(scored, key=lambda t: t.reports[-1].seconds)
    best = np.maximum.accumulate if mode == "max" else np.minimum.accumulate
    for axes, members, x_of in (
        (by_number, scored, lambda t: t.number),
        (by_time, order, lambda t: t.reports[-1].seconds / 60),
    ):
        for state, marker in MARKERS.items():
            chosen = [t for t in members if t.state == state]
            color = COLORS[list(MARKERS).index(state)]
            axes.scatter(
                [x_of(t) for t in chosen],
                [float(t.score or 0) for t in chosen],
                marker=marker,
                color=color,
                label=state,
            )
        full = [t for t in members if t.state == "finished"]
        if full:
            reached = best([float(t.score or 0) for t in full])
            axes.step([x_of(t) for t in full], reached, where="post", color="#333333", linewidth=1, label="best so far")
        axes.set(ylabel=metric)
        tidy(axes)
    by_number.set(xlabel="trial", title="Score by trial")
    by_number.locator_params(axis="x", integer=True)
    by_time.set(xlabel="run time of the sweep (minutes)", title="Score by time")
    by_number.legend(fontsize=8, frameon=False)
    _curves(by_epoch, scored, metric)
    return save(figure, path)


def plot_parallel(
    space: SearchSpace, trials: Sequence[Trial], path: PathLike, metric: str, importance: Importance | None = None
) -> Path:
    """A line for each trial through the values of its fields, colored by its score, the best on top.

    Fields are ordered by importance, if given.
    """
    require_extra("plots", "plotting", "matplotlib")

    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    scored = [t for t in trials if t.score is not None and t.parameters]
    names = sorted(space.fields, key=lambda n: -(importance.shares[n] if importance else 0))
    scores = np.array([t.score for t in scored], dtype=np.float64)
    low, high = (np.quantile(scores, 0.1), scores.max()) if len(scores) else (0.0, 1.0)
    norm = Normalize(low, high if high > low else low + 1)
    colors = matplotlib.colormaps["viridis"]
    figure = Figure(figsize=(2.1 * len(names) + 3, 4.8), layout="constrained")
    axes = figure.add_subplot()
    for index in np.argsort(scores):
        trial = scored[int(index)]
        heights = [_height(space, name, trial.parameters) for name in names]
        style = "-" if trial.state == "finished" else ":"
        axes.plot(range(len(names)), heights, style, color=colors(norm(scores[index])), linewidth=1.6, alpha=0.85)
    for column, name in enumerate(names):
        axes.axvline(column, color="#888888", linewidth=0.8)
        for height, text in _ticks(space, name):
            axes.annotate(text, (column, height), xytext=(4, 0), textcoords="offset points", fontsize=7, va="center",
                          bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(yticks=[], ylim=(-0.14, 1.06), xlim=(-0.2, len(names) - 0.4))
    axes.set_title("Parallel coordinates (dotted: stopped early; below the axis: field does not apply)", fontsize=10)
    for side in axes.spines.values():
        side.set_visible(False)
    figure.colorbar(ScalarMappable(norm, colors), ax=axes, label=metric)
    return save(figure, path)


def plot_importance(importance: Importance, path: PathLike, metric: str) -> Path:
    """Bar chart of each field's permutation importance, with the R² of the random forest on held-out trials."""
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    names = sorted(importance.shares, key=lambda n: importance.shares[n])
    figure = Figure(figsize=(7, 0.5 * len(names) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(names, [importance.shares[n] for n in names], color=COLORS[0])
    axes.axvline(0, color="#333333", linewidth=0.8)
    warning = "" if importance.explained > 0 else ", not meaningful"
    axes.set(
        xlabel=f"permutation importance (share of the variance of {metric})",
        title=f"Importance of fields (held-out R² {importance.explained:.2f}{warning})\n{importance.basis}",
    )
    axes.title.set_fontsize(8)
    tidy(axes)
    return save(figure, path)


def heatmap_fields(
    space: SearchSpace, requested: Sequence[str], importance: Importance | None
) -> tuple[str, str] | None:
    """The two fields of the heat map: the requested ones, those of augmentation, or the most important; or None."""
    if len(requested) == 2:
        return requested[0], requested[1]
    if all(len(space.ranges.get(name, ())) == 1 for name in STRENGTH):
        return STRENGTH
    single = [n for n in space.fields if len(space.ranges[n]) == 1]  # Several ranges cannot share an axis.
    names = sorted(single, key=lambda n: -(importance.shares[n] if importance else 0))
    strength = [n for n in names if n.startswith("augment.")]
    chosen = (strength + [n for n in names if n not in strength])[:2]
    return (chosen[0], chosen[1]) if len(chosen) == 2 else None


def plot_heatmap(
    space: SearchSpace,
    trials: Sequence[Trial],
    fields: tuple[str, str],
    path: PathLike,
    metric: str,
    bins: int = 5,
    basis: str = "",
) -> Path:
    """Mean score and number of trials in each cell of two fields; continuous ranges are split into `bins`.

    Args:
        basis: which trials these are, for the title; see `facelib.tuning.statistics.comparable_trials`.
    """
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    chosen = [t for t in trials if t.score is not None and all(f in t.parameters for f in fields)]
    cells = [_cells(space, f, bins) for f in fields]
    sums, counts = np.zeros((2, len(cells[1]), len(cells[0])))
    for trial in chosen:
        column, row = (_cell(space, f, trial.parameters, len(c)) for f, c in zip(fields, cells))
        sums[row, column] += float(trial.score or 0)
        counts[row, column] += 1
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    figure = Figure(figsize=(1.2 * len(cells[0]) + 2.6, 0.8 * len(cells[1]) + 1.8), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(means, origin="lower", aspect="auto", cmap="viridis")
    middle = np.nanmean(image.get_clim()) if chosen else 0
    for row, column in np.ndindex(means.shape):
        if counts[row, column]:
            text_color = "white" if means[row, column] < middle else "black"
            text = f"{means[row, column]:.4f}\n({int(counts[row, column])})"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=text_color)
    axes.set_xticks(range(len(cells[0])), cells[0], fontsize=8)
    axes.set_yticks(range(len(cells[1])), cells[1], fontsize=8)
    axes.set(xlabel=fields[0], ylabel=fields[1])
    axes.set_title(f"Mean {metric} (number of trials)\n{basis}".strip(), fontsize=8)
    if chosen:
        figure.colorbar(image, ax=axes)
    return save(figure, path)


def plot_finalists(
    comparison: FinalistComparison,
    scores: Mapping[int, Mapping[int, float]],
    path: PathLike,
    metric: str,
    labels: Mapping[int, str],
) -> Path:
    """Every repeat of every finalist, means and 95 % intervals; a line joins repeats with the same seed."""
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    numbers = list(comparison.finalists)
    figure = Figure(figsize=(1.4 * len(numbers) + 2.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for seed in sorted({s for n in numbers for s in scores[n]}):
        columns = [i for i, n in enumerate(numbers) if seed in scores[n]]
        axes.plot(columns, [scores[numbers[i]][seed] for i in columns], ".-", color="#bbbbbb", linewidth=0.8, zorder=1)
    for column, number in enumerate(numbers):
        mean = comparison.finalists[number]
        margin = 0 if np.isnan(mean.low) else mean.mean - mean.low
        axes.errorbar(column, mean.mean, yerr=margin, fmt="o", color=COLORS[0], capsize=5, zorder=2)
    axes.set_xticks(range(len(numbers)), [labels[n] for n in numbers])
    axes.set(xlabel="finalist (trial, best first)", ylabel=metric, xlim=(-0.5, len(numbers) - 0.5))
    axes.set_title("Finalists over new seeds: mean and 95 % interval", fontsize=10)
    tidy(axes)
    return save(figure, path)


def plot_schedules(trials: Sequence[Trial], fields: Sequence[str], path: PathLike) -> Path:
    """Parameters of each member of a population over epochs (population-based training)."""
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(fields), 4), layout="constrained")
    for column, name in enumerate(fields):
        axes = figure.add_subplot(1, len(fields), column + 1)
        for number, trial in enumerate(trials):
            stops = [0, *(s.stop_epoch for s in trial.segments)]
            values: list[Any] = [s.parameters.get(name) for s in trial.segments]
            if all(isinstance(v, int | float) for v in values):
                color = COLORS[number % len(COLORS)]
                axes.step(stops, [values[0], *values], where="pre", color=color, label=trial.label)
        axes.set(xlabel="epoch", title=name)
        tidy(axes)
        if not column and len(trials) <= 12:
            axes.legend(fontsize=7, frameon=False, title="member")
    return save(figure, path)


def _curves(axes: Axes, trials: Sequence[Trial], metric: str) -> None:
    """The metric of each trial over its epochs."""
    for number, trial in enumerate(trials):
        epochs, values = [r.epoch for r in trial.reports], [r.value for r in trial.reports]
        color = COLORS[number % len(COLORS)]
        axes.plot(epochs, values, color=color, linewidth=1, alpha=0.8)
        axes.plot(epochs[-1], values[-1], marker=MARKERS[trial.state], color=color, markersize=5)
    axes.set(xlabel="epoch", ylabel=metric, title="Learning curves")
    axes.locator_params(axis="x", integer=True)
    tidy(axes)


def _height(space: SearchSpace, name: str, parameters: Mapping[str, Any]) -> float:
    """Position of a value on its axis; below the axis if the field does not apply."""
    chosen = space.active(name, dict(parameters))
    return chosen.position(parameters[name]) if chosen is not None and name in parameters else -0.1


def _ticks(space: SearchSpace, name: str) -> list[tuple[float, str]]:
    ranges = space.ranges[name]
    if len(ranges) > 1:  # Ranges have different bounds.
        return [(0.0, "low"), (1.0, "high")]
    return [(ranges[0].position(v), _text(v)) for v in ranges[0].points(5)]


def _cells(space: SearchSpace, name: str, bins: int) -> list[str]:
    points = space.ranges[name][0].points(bins + 1)
    if _is_few(space, name, bins):
        return [_text(v) for v in points]
    return [f"{_text(a)}–{_text(b)}" for a, b in itertools.pairwise(points)]


def _cell(space: SearchSpace, name: str, parameters: Mapping[str, Any], count: int) -> int:
    chosen = space.active(name, dict(parameters)) or space.ranges[name][0]
    position = chosen.position(parameters[name])
    if _is_few(space, name, count):
        return round(position * (count - 1))
    return min(int(position * count), count - 1)


def _is_few(space: SearchSpace, name: str, bins: int) -> bool:
    """Whether each value of a field has its own cell."""
    first = space.ranges[name][0]
    return bool(first.values) or len(first.points(10_000)) <= bins + 1


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
