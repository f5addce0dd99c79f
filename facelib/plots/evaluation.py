"""Pictures of an evaluation: ROC, DET, score histograms, training curves, worst pairs, maps of embeddings.

Drawn with Matplotlib figures of their own on the Agg canvas: no window, no global pyplot state, safe in any worker.
Every function writes one file (PNG, or by the ending PDF or SVG), complete or not at all, and returns its path.

Shape legend: P pairs, N faces, D embedding size, H and W image height and width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.arrays import as_labels, as_numpy
from facelib.evaluation.bootstrap import bootstrap_sorted
from facelib.evaluation.resampling import describe_resampling
from facelib.evaluation.roc import RocCurve, SortedScores
from facelib.plots.contact_sheet import tile_images
from facelib.plots.style import COLORS, PathLike
from facelib.plots.style import save as _save
from facelib.plots.style import tidy as _tidy
from facelib.utils.arrays import l2_normalize
from facelib.utils.optional import require_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ScoredPairs = Mapping[str, SortedScores | tuple[Any, Any]]

MARKS = ("o", "s", "^", "D")
GENUINE, IMPOSTOR = COLORS[0], COLORS[1]
MAX_CURVE_POINTS = 4000
TILE_GAP = 4  # pixels between images


def plot_roc(models: ScoredPairs, path: PathLike, title: str = "ROC", bootstrap: int = 300, seed: int = 0) -> Path:
    """TAR against FAR on a logarithmic axis, one line per model, its 95 % bootstrap band shaded.

    Args:
        models: (similarities [P], labels [P]) by model name, or `SortedScores`, whose identities the band resamples.
        path: file to write.
        title: text above the plot.
        bootstrap: resamples behind the bands; 0 draws none.
        seed: of the resampling.

    Raises:
        ValueError: no model, or scores and labels that are not usable.
    """
    figure, axes = _figure()
    lowest = 1.0
    for number, (name, scores) in enumerate(_sorted(models).items()):
        curve = scores.curve()
        lowest = min(lowest, 1 / curve.impostors)
        far, tar = _thinned(curve)
        color = COLORS[number % len(COLORS)]
        if bootstrap:
            grid = np.geomspace(1 / curve.impostors, 1, 80)
            samples = bootstrap_sorted(scores, grid, bootstrap, seed)
            low, high = samples.tar.bounds(scores.strict_tar(grid))
            band = f"bands: 95 %, {describe_resampling(scores.identities)}" if number == 0 else None
            axes.fill_between(grid, low, high, color=color, alpha=0.15, linewidth=0, step="post", label=band)
        label = f"{name}: AUC {scores.auc:.4f}, EER {100 * scores.eer:.1f} % ({_counts(curve)})"
        axes.plot(far, tar, color=color, label=label, drawstyle="steps-post")
    chance = np.geomspace(lowest, 1, 200)
    axes.plot(chance, chance, color="#888888", linestyle=":", linewidth=1, label="chance")
    axes.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.01), title=title)
    axes.set(xlabel="false accept rate (log scale)", ylabel="true accept rate")
    _legend(axes)
    return _save(figure, path)


def plot_det(models: ScoredPairs, path: PathLike, title: str = "DET") -> Path:
    """Detection error trade-off: false non-match against false match rate, both axes logarithmic, EER points marked.

    Arguments as for `plot_roc`.
    """
    figure, axes = _figure()
    lowest_far, lowest_fnmr = 1.0, 1.0
    for number, (name, scores) in enumerate(_sorted(models).items()):
        curve = scores.curve()
        far, tar = _thinned(curve)
        fnmr = 1 - tar
        lowest_far = min(lowest_far, 1 / curve.impostors)
        lowest_fnmr = min(lowest_fnmr, 1 / curve.genuine)
        color = COLORS[number % len(COLORS)]
        # Rates of zero have no place on a logarithmic axis: they are drawn along its edge.
        x, y = np.maximum(far, 0.5 / curve.impostors), np.maximum(fnmr, 0.5 / curve.genuine)
        axes.plot(
            x, y, color=color, drawstyle="steps-post", label=f"{name}: EER {100 * scores.eer:.1f} % ({_counts(curve)})"
        )
        axes.plot(scores.eer, scores.eer, marker="o", color=color, markersize=5)
    low = min(lowest_far, lowest_fnmr)
    axes.plot([low, 1], [low, 1], color="#888888", linestyle=":", linewidth=1, label="equal error")
    axes.set(xscale="log", yscale="log", xlim=(lowest_far, 1), ylim=(lowest_fnmr, 1), title=title)
    axes.set(xlabel="false match rate (log scale)", ylabel="false non-match rate (log scale)")
    _legend(axes)
    return _save(figure, path)


def plot_score_histograms(
    similarities: Any,
    labels: Any,
    path: PathLike,
    threshold: float | None = None,
    title: str = "Scores",
    bins: int = 60,
) -> Path:
    """Histograms (densities) of genuine and impostor similarities [P], with a line at `threshold` if given."""
    scores = SortedScores.of(similarities, labels)
    figure, axes = _figure()
    edges = np.linspace(
        min(scores.genuine[0], scores.impostors[0]), max(scores.genuine[-1], scores.impostors[-1]), bins + 1
    )
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, bins + 1)
    for name, part, color in (("impostor", scores.impostors, IMPOSTOR), ("genuine", scores.genuine, GENUINE)):
        label = f"{name} ({len(part):,} pairs, mean {part.mean(dtype=np.float64):.3f})"
        axes.hist(
            part, edges.tolist(), density=True, color=color, alpha=0.45, label=label, edgecolor="white", linewidth=0.3
        )
    if threshold is not None:
        axes.axvline(threshold, color="#333333", linestyle="--", linewidth=1, label=f"threshold {threshold:.3f}")
    axes.set(xlabel="similarity", ylabel="density", title=f"{title}: AUC {scores.auc:.4f}")
    _legend(axes)
    return _save(figure, path)


def plot_training_curves(history: Sequence[Mapping[str, Any]], path: PathLike, title: str = "Training") -> Path:
    """Metrics over epochs, one panel per kind of metric.

    Args:
        history: one dict per epoch: {"epoch": 1, "train/loss": 7.2, "lfw/accuracy": 0.71, ...}. Metrics whose names end
            in the same word after the last "/" share a panel; epochs may lack metrics; entries that are no numbers are
            left out.
        path: file to write.

    Raises:
        ValueError: no epoch, an entry without "epoch", no metric.
    """
    panels = _panels(history)
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * columns, 3.4 * rows))
    _space_panels(figure, columns, rows)
    figure.suptitle(title)
    for position, (kind, series) in enumerate(panels.items()):
        axes = figure.add_subplot(rows, columns, position + 1)
        for number, (name, points) in enumerate(series.items()):
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, marker=".", color=COLORS[number % len(COLORS)], label=name)
        axes.set(xlabel="epoch", title=kind)
        axes.locator_params(axis="x", integer=True)
        _tidy(axes)
        if len(series) > 1 or next(iter(series)) != kind:
            axes.legend(fontsize=8, frameon=False)
    return _save(figure, path)


def plot_worst_pairs(
    first_images: Sequence[Any],
    second_images: Sequence[Any],
    similarities: Any,
    labels: Any,
    path: PathLike,
    count: int = 8,
    title: str = "Hardest pairs",
) -> Path:
    """The genuine pairs with the lowest and the impostor pairs with the highest similarity, as images.

    Args:
        first_images, second_images: RGB uint8 [H, W, 3] per pair; only the pairs shown are indexed.
        similarities, labels: [P].
        path: file to write.
        count: pairs per row.
    """
    scores, same = as_numpy(similarities).astype(np.float64), as_labels(labels)
    if not len(first_images) == len(second_images) == len(scores) == len(same):
        sizes = f"{len(first_images)}, {len(second_images)}, {len(scores)} and {len(same)}"
        raise ValueError(f"first_images, second_images, similarities and labels must match, got {sizes} entries")
    order = np.argsort(scores, kind="stable")
    rows = {
        "genuine pairs, lowest similarity": (order[same[order]][:count], int(same.sum())),
        "impostor pairs, highest similarity": (order[~same[order]][::-1][:count], int((~same).sum())),
    }
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.45 * count, 7.2), layout="constrained")
    # One picture a row: axes of their own for every image take longer to lay out than all else.
    for axes, (name, (members, total)) in zip(figure.subplots(2, 1), rows.items(), strict=True):
        sides = [[as_numpy(images[pair]) for pair in members] for images in (first_images, second_images)]
        height, width = (max((image.shape[a] for side in sides for image in side), default=1) for a in (0, 1))
        axes.imshow(tile_images(sides, count, height, width, TILE_GAP))
        for column, pair in enumerate(members):
            x = (column + 0.5) * width + column * TILE_GAP
            axes.text(x, -2, f"#{pair}  {scores[pair]:.3f}", fontsize=8, ha="center", va="bottom")
        axes.set_title(f"{title}: {name} ({len(members)} of {total:,} pairs)", fontsize=10, pad=16)
        axes.axis("off")
    return _save(figure, path)


def plot_embedding_map(
    embeddings: Any,
    identities: Any,
    path: PathLike,
    max_identities: int = 12,
    faces: int = 20,
    title: str = "Embeddings",
    seed: int = 0,
) -> Path:
    """Embeddings of some identities in the plane: by principal components, which keep distances, and by t-SNE, which
    keeps neighbors. Points of one identity share a color and a marker.

    Args:
        embeddings: [N, D], any length; directions are drawn.
        identities: identity of each face, integers [N]; -1 is unknown and left out.
        path: file to write.
        max_identities, faces: at most so many identities, those with most faces, and so many faces of each.
        seed: of t-SNE.

    Raises:
        ValueError: shapes that do not match, or fewer than two identities with two faces.
    """
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    rows, colors, left_out = _map_members(as_numpy(identities), len(embeddings), max_identities, faces)
    points = l2_normalize(as_numpy(embeddings)[rows].astype(np.float64))
    # The first 50 components hold what t-SNE can show; with fewer points there are fewer of them.
    reduced = PCA(min(50, *points.shape), random_state=seed).fit_transform(points)
    neighbors = TSNE(perplexity=min(30.0, (len(points) - 1) / 3), init="pca", random_state=seed).fit_transform(reduced)
    figure = Figure(figsize=(11, 5.2), layout="constrained")
    count = int(colors.max()) + 1
    figure.suptitle(
        f"{title}: {len(points)} faces of {count} identities" + (f" (of {left_out + count})" * (left_out > 0))
    )
    for axes, (name, flat) in zip(
        figure.subplots(1, 2), (("principal components 1 and 2", reduced[:, :2]), ("t-SNE", neighbors)), strict=True
    ):
        for number in range(count):
            mine = colors == number
            mark = MARKS[number // len(COLORS) % len(MARKS)]
            axes.scatter(*flat[mine].T, s=26, color=COLORS[number % len(COLORS)], marker=mark, linewidths=0)
        axes.set(title=name, xticks=[], yticks=[])
        _tidy(axes)
    return _save(figure, path)


def _map_members(
    identities: NDArray[Any], count: int, max_identities: int, faces: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Rows to draw, a number from 0 for the identity of each, and how many identities were left out."""
    if identities.shape != (count,):
        raise ValueError(f"identities has shape {list(identities.shape)} for {count} embeddings")
    known, sizes = np.unique(identities[identities >= 0], return_counts=True)
    several = known[np.argsort(-sizes, kind="stable")][: int(np.sum(sizes > 1))]
    if len(several) < 2:
        raise ValueError("identities: a map needs two identities with two faces each")
    members = [np.flatnonzero(identities == identity)[:faces] for identity in several[:max_identities]]
    numbers = np.repeat(np.arange(len(members)), [len(m) for m in members])
    return np.concatenate(members), numbers, len(several) - len(members)


def _sorted(models: ScoredPairs) -> dict[str, SortedScores]:
    if not models:
        raise ValueError("models is empty: give at least one {name: (similarities, labels)}")
    return {name: s if isinstance(s, SortedScores) else SortedScores.of(*s) for name, s in models.items()}


def _counts(curve: RocCurve) -> str:
    return f"{curve.genuine:,} + {curve.impostors:,} pairs"


def _thinned(curve: RocCurve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Points of a ROC to draw: all of a small one, else evenly many per decade of FAR and of TAR."""
    if len(curve.far) <= MAX_CURVE_POINTS:
        return curve.far, curve.tar
    log_far = np.linspace(np.log(1 / curve.impostors), 0, MAX_CURVE_POINTS // 2)
    by_far = np.searchsorted(curve.far, np.exp(log_far), side="right") - 1
    by_tar = np.searchsorted(curve.tar, np.linspace(0, 1, MAX_CURVE_POINTS // 2))
    keep = np.unique(np.concatenate([[0], by_far, by_tar, [len(curve.far) - 1]]))
    return curve.far[keep], curve.tar[keep]


def _panels(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    if not history:
        raise ValueError("history is empty: training curves need at least one epoch")
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for position, row in enumerate(history):
        if "epoch" not in row:
            raise ValueError(f'history[{position}] has no "epoch"; it has {sorted(row)}')
        for name, value in row.items():
            if name == "epoch" or isinstance(value, bool | str) or not np.isscalar(value):
                continue
            points = panels.setdefault(name.rsplit("/", 1)[-1], {}).setdefault(name, [])
            points.append((float(row["epoch"]), float(value)))  # type: ignore[arg-type]
    if not panels:
        raise ValueError("history holds no metric: only numbers are drawn")
    return panels


def _space_panels(figure: Figure, columns: int, rows: int) -> None:
    """Room for the panels' labels, in inches. A layout engine would draw all twice, for every trial of a sweep."""
    width, height = figure.get_size_inches()
    left, right, bottom, top, beside, between = 0.75, 0.15, 0.55, 0.75, 0.85, 0.95
    figure.subplots_adjust(
        left=left / width,
        right=1 - right / width,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=beside * columns / (width - left - right - beside * (columns - 1)),
        hspace=between * rows / (height - bottom - top - between * (rows - 1)),
    )


def _figure() -> tuple[Figure, Axes]:
    require_extra("plots", "plotting", "matplotlib")

    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    _tidy(axes)
    return figure, axes


def _legend(axes: Axes) -> None:
    """Inside the plot, or below it where so many lines would cover curves."""
    figure = axes.get_figure()
    assert figure is not None
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) <= 5:
        axes.legend(fontsize=8, frameon=True, framealpha=0.85, edgecolor="none")
        return
    figure.set_size_inches(7, 5 + 0.18 * len(handles))  # type: ignore[union-attr]
    figure.legend(handles, labels, loc="outside lower center", fontsize=8, frameon=False)
