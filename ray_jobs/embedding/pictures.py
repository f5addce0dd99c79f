"""Pictures of an evaluation: curves of all models in one, and of each model its histogram, worst pairs and map."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from facelib.data import Folder
from facelib.evaluation.protocols import EvaluationResult, EvaluationSet
from facelib.plots import plot_det, plot_embedding_map, plot_roc, plot_score_histograms, plot_worst_pairs
from facelib.tracking import Run

MAP_FACES = 20_000  # Faces looked at for the people of a map: those of a large set's beginning.


def write_pictures(
    folder: Folder,
    run: Run,
    sets: Sequence[EvaluationSet],
    results: dict[str, dict[str, EvaluationResult]],
    trained: Sequence[str],
) -> None:
    """Every picture of the sets that have pairs; baselines are in the curves only."""
    for s in sets:
        scored = {
            name: (by_set[s.name].similarities, by_set[s.name].issame)
            for name, by_set in results.items()
            if s.name in by_set and by_set[s.name].similarities is not None
        }
        if not scored:
            continue
        _keep(folder, run, f"roc_{s.name}.png", plot_roc, scored, title=f"ROC on {s.name}")
        _keep(folder, run, f"det_{s.name}.png", plot_det, scored, title=f"DET on {s.name}")
        for name in trained:
            similarities, issame = scored[name]
            what = f"{name}_{s.name}.png"
            _keep(
                folder, run, f"scores_{what}", plot_score_histograms, similarities, issame, title=f"{name} on {s.name}"
            )
            sides = [_Side(s, side, len(issame)) for side in (0, 1)]
            _keep(folder, run, f"worst_{what}", plot_worst_pairs, *sides, similarities, issame)
            if results[name][s.name].curves:
                curves = results[name][s.name].curves
                _keep(folder, run, f"roc_groups_{what}", plot_roc, curves, title=f"{name} on {s.name}")


def write_map(folder: Folder, run: Run, model: str, s: EvaluationSet, embeddings: np.ndarray) -> None:
    """Map of some people's embeddings, where the set says who is on two faces each of two people."""
    people = s.identities
    if people is None:
        return
    people = people[:MAP_FACES]
    if np.sum(np.unique(people[people >= 0], return_counts=True)[1] > 1) >= 2:
        title = f"{model} on {s.name}"
        _keep(folder, run, f"map_{model}_{s.name}.png", plot_embedding_map, embeddings[:MAP_FACES], people, title=title)


def _keep(folder: Folder, run: Run, name: str, draw: Callable[..., Any], *data: Any, **options: Any) -> None:
    """Draw into a file of its own; the run and the folder get a copy."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / name
        draw(*data, path, **options)
        run.log_file(path, "pictures")
        folder.write(name, path.read_bytes())


class _Side(Sequence[np.ndarray]):
    """One side of the pairs, decoded only where it is looked at."""

    def __init__(self, face_set: EvaluationSet, side: int, pairs: int) -> None:
        self.face_set, self.side, self.pairs = face_set, side, pairs

    def __len__(self) -> int:
        return self.pairs

    def __getitem__(self, pair: Any) -> Any:
        number = self.face_set.pair_images(int(pair))[self.side]
        return self.face_set.faces.part(number, number + 1).decode()[0]
