"""Figures of an evaluation: curves of all models in one, and of each model its histogram, worst pairs and map.

Shape legend: N faces, D embedding size.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation.protocols import EvaluationResult, EvaluationSet
from facelib.plots import plot_det, plot_embedding_map, plot_roc, plot_score_histograms, plot_worst_pairs

MAP_FACES = 20_000  # The first faces of a set, among which a map's identities are chosen.


def draw_evaluation_figures(
    sets: Sequence[EvaluationSet],
    results: Mapping[str, Mapping[str, EvaluationResult]],
    trained: Sequence[str],
    folder: Path,
    notes: Mapping[str, str] | None = None,
) -> Iterator[Path]:
    """Draw the figures of all sets that have pairs into a local folder; baselines are in the curves only.

    Args:
        results: by model name, then set name.
        trained: names of the models that are not baselines.
        notes: a line below the title, by set name: the rules of its evaluation.

    Yields:
        The PNG files, each when it is finished.
    """
    for s in sets:
        scored = {
            name: scores
            for name, by_set in results.items()
            if s.name in by_set and (scores := by_set[s.name].scores) is not None
        }
        if not scored:
            continue
        note = "\n" + textwrap.fill(notes[s.name], 60) if notes and s.name in notes else ""
        yield _drawn(folder / f"roc_{s.name}.png", plot_roc, scored, title=f"ROC on {s.name}{note}")
        yield _drawn(folder / f"det_{s.name}.png", plot_det, scored, title=f"DET on {s.name}{note}")
        for name in trained:
            similarities: Any = results[name][s.name].similarities
            issame: Any = results[name][s.name].issame
            file, title = f"{name}_{s.name}.png", f"{name} on {s.name}"
            yield _drawn(folder / f"scores_{file}", plot_score_histograms, similarities, issame, title=title)
            sides = [PairSide(s, side, len(issame)) for side in (0, 1)]
            yield _drawn(folder / f"worst_{file}", plot_worst_pairs, *sides, similarities, issame)
            curves = results[name][s.name].curves
            if curves:
                yield _drawn(folder / f"roc_groups_{file}", plot_roc, curves, title=title)


def draw_embedding_map(model: str, s: EvaluationSet, embeddings: NDArray[np.float32], folder: Path) -> Path | None:
    """Draw a map of some identities' embeddings [N, D]; None where fewer than two identities have two known faces."""
    identities = s.identities
    if identities is None:
        return None
    identities = identities[:MAP_FACES]
    if np.sum(np.unique(identities[identities >= 0], return_counts=True)[1] > 1) < 2:
        return None
    path, title = folder / f"map_{model}_{s.name}.png", f"{model} on {s.name}"
    return _drawn(path, plot_embedding_map, embeddings[:MAP_FACES], identities, title=title)


def _drawn(path: Path, plot: Any, *data: Any, **options: Any) -> Path:
    plot(*data, path, **options)
    return path


class PairSide(Sequence[Any]):
    """One side of a set's pairs, decoded only where it is looked at."""

    def __init__(self, face_set: EvaluationSet, side: int, pairs: int) -> None:
        self.face_set, self.side, self.pairs = face_set, side, pairs

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, pair: Any) -> Any:
        number = self.face_set.pair_images(int(pair))[self.side]
        return self.face_set.faces.part(number, number + 1).decode()[0]
