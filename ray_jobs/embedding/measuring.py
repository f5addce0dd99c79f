"""Measuring models on evaluation sets: embeddings from actors → each set's protocol → results and figures."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from facelib.config import Settings
from facelib.data import Folder
from facelib.evaluation.protocols import EvaluationResult, EvaluationSet
from facelib.evaluation.protocols.score_files import write_scores
from facelib.tracking import Run
from ray_jobs.embedding.evaluation_sets import embed_sets
from ray_jobs.embedding.models import EmbeddingModel
from ray_jobs.embedding.rules import describe_rules, evaluation_options

Results = dict[str, dict[str, EvaluationResult]]  # by model name, then set name


def measure_sets(
    settings: Settings, run: Run, folder: Folder, work: Sequence[tuple[EmbeddingModel, EvaluationSet]]
) -> Results:
    """Embed and measure each (model, set), and draw the embedding maps of trained models (`evaluate.figures`).

    Args:
        folder: of the evaluation; has the maps and, with `evaluate.cache`, the embeddings; with `evaluate.score_files`
            the scores of all pairs.

    Returns:
        Results by model and set, both in the order of `work`.
    """
    from facelib.plots.evaluation_figures import draw_embedding_map

    cfg = settings.evaluate
    cache = Folder(f"{folder.uri}/embeddings").create() if cfg.cache else None
    options = evaluation_options(settings)
    results: Results = {model.name: {} for model, _ in work}
    for model, s, embeddings in embed_sets(work, cfg, cache, settings.ray.autoscaling):
        results[model.name][s.name] = result = s.measure(embeddings, options)
        if cfg.score_files != "none" and result.similarities is not None and result.issame is not None:
            scores = Folder(f"{folder.uri}/scores/{model.name.replace(' ', '_')}").create()
            write_scores(scores, s.name, result.similarities, result.issame, cfg.score_files)
        if cfg.figures and model.trained:
            with tempfile.TemporaryDirectory() as temporary:
                if (path := draw_embedding_map(model.name, s, embeddings, Path(temporary))) is not None:
                    save_figure(path, folder, run)
        del embeddings  # The next set is embedded without this one's embeddings in memory.
    order = list(dict.fromkeys(s.name for _, s in work))
    return {name: {s: by_set[s] for s in order if s in by_set} for name, by_set in results.items()}


def save_figures(
    folder: Folder,
    run: Run,
    sets: Sequence[EvaluationSet],
    results: Results,
    trained: Sequence[str],
    rules: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw the figures of all sets, with their rules, into the evaluation's folder and the MLflow run."""
    from facelib.plots.evaluation_figures import draw_evaluation_figures

    with tempfile.TemporaryDirectory() as temporary:
        notes = {name: describe_rules(chosen) for name, chosen in rules.items()}
        for path in draw_evaluation_figures(sets, results, trained, Path(temporary), notes):
            save_figure(path, folder, run)


def save_figure(path: Path, folder: Folder, run: Run) -> None:
    """Copy a local image file into a folder and the MLflow run."""
    run.log_file(path, "plots")
    folder.write(path.name, path.read_bytes())
