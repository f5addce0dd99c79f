"""Evaluate models on evaluation sets, each by its protocol, beside baselines: tables, intervals, plots, JSON.

Evaluates <output>/ssl/model.pt, or evaluate.models, on evaluate.sets: `heldout` (synthetic identities that training did
not see), .bin files, IJB-B/C, K-FACE, groups, or a protocol of your own. Writes <output>/evaluation. The baselines are
the same network untrained, raw pixels, and pixels and LBP histograms whitened by PCA on the training faces.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from facelib.config import Settings, SettingsError
from ray_jobs.cli import job, main
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult

if TYPE_CHECKING:
    from facelib.evaluation.protocols import EvaluationResult, EvaluationSet
    from facelib.tracking import Run
    from ray_jobs.embedding.checkpoint_files import CheckpointFile


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check sets, models, rates and ranks, and that no other evaluation writes to the same folder.

    Args:
        upcoming: paths that earlier stages of a pipeline will have written.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
        DatasetError: the held-out dataset is missing, or the output folder is in use.
    """
    from facelib.evaluation.roc import check_fars
    from ray_jobs.embedding.checkpoint_files import checkpoint_of, is_pattern
    from ray_jobs.embedding.rules import evaluation_options, set_defaults
    from ray_jobs.validation import check_checkpoint_exists, check_output, check_sets, checked_field, open_dataset

    cfg = settings.evaluate
    with checked_field("evaluate.fars"):
        check_fars(cfg.fars)
    for name, values in (("evaluate.sets", cfg.sets), ("evaluate.models", cfg.models)):
        if not values:
            raise SettingsError(f"{name}: empty; give at least one to evaluate")
    if min(cfg.ranks, default=1) < 1 or not all(0 < fpir < 1 for fpir in cfg.fpirs):
        raise SettingsError(
            f"evaluate.ranks, evaluate.fpirs: ranks {cfg.ranks} must be 1 or more, FPIRs {cfg.fpirs} between 0 and 1"
        )
    evaluation_options(settings)
    specs = check_sets("evaluate.sets", [spec for spec in cfg.sets if spec != "heldout"], upcoming)
    for spec in specs:
        set_defaults(settings, spec)
    names = [spec.name for spec in specs] + ["heldout"] * ("heldout" in cfg.sets)
    if cfg.threshold_set and cfg.threshold_set not in names:
        raise SettingsError(
            f"evaluate.threshold_set: no set is named {cfg.threshold_set!r}; choose from {', '.join(names)}"
        )
    for path in cfg.models:
        if "://" not in settings.path(path) and not is_pattern(settings.path(path)):
            check_checkpoint_exists(settings, "evaluate.models", checkpoint_of(settings.path(path)), upcoming)
    if "heldout" in cfg.sets:
        open_dataset(settings, settings.data.heldout, upcoming)
    check_output(settings.path("evaluation"))


@job
def evaluate(settings: Settings, run: Run) -> JobResult:
    """Evaluate all models on all sets."""
    from facelib.data import Folder
    from facelib.data.lock import directory_lock
    from facelib.evaluation import results_tables
    from facelib.evaluation.comparison import (
        apply_thresholds,
        compare_with_baselines,
        interval_tags,
        summary_lines,
    )
    from ray_jobs.embedding.checkpoint_files import find_checkpoints
    from ray_jobs.embedding.measuring import measure_sets, save_figures
    from ray_jobs.embedding.models import (
        EmbeddingModel,
        pixel_baselines,
        read_model_checkpoint,
        training_summary,
        untrained_models,
    )
    from ray_jobs.embedding.rules import describe_rules, model_normalization
    from ray_jobs.progress import console
    from ray_jobs.validation import check_unique

    cfg = settings.evaluate
    files = find_checkpoints(settings)
    models = [EmbeddingModel(f.name, f.path, normalization=model_normalization(settings, f.path)) for f in files]
    check_unique("evaluate.models", [model.name for model in models], "give each checkpoint once, under its own name")
    sets = open_sets(settings)
    rules = log_sets(settings, run, sets)
    checkpoints = {model.name: read_model_checkpoint(model, sets) for model in models}
    work = [(model, s) for model in models for s in sets]
    if cfg.baselines:
        work += [(model, s) for model in untrained_models(models, checkpoints) for s in sets]
        work += pixel_baselines(settings, sets)
    folder = Folder(settings.path("evaluation")).create()
    trained = [model.name for model in models]
    with directory_lock(folder, "evaluate"):
        results = measure_sets(settings, run, folder, work)
        if cfg.figures:
            save_figures(folder, run, sets, results, trained, rules)
        summary = {
            "models": {m.name: {"path": m.path, "training": training_summary(m, checkpoints[m.name])} for m in models},
            "rules": rules,
            "reports": {name: {s: r.report.to_dict() for s, r in by_set.items()} for name, by_set in results.items()},
            "gains": compare_with_baselines(trained, results, settings.seed) if cfg.baselines and cfg.bootstrap else {},
            "thresholds": apply_thresholds(results, cfg.threshold_set, cfg.fars, cfg.bootstrap, settings.seed)
            if cfg.threshold_set
            else {},
        }
        folder.write("results.json", json.dumps(summary, indent=1).encode())
    run.log_json(summary, "results.json")
    metrics = log_metrics(run, results, files)
    for set_name, resampling in interval_tags(results).items():
        run.set_tag(f"intervals.{set_name}", resampling)
    output = console()
    for table in results_tables({name: {s: r.report for s, r in by_set.items()} for name, by_set in results.items()}):
        output.print(table)
    for name, chosen in rules.items():
        output.print(f"rules on {name}: {describe_rules(chosen)}", markup=False)
    for line in summary_lines(results, summary, cfg.threshold_set):
        output.print(line)
    return JobResult(written=(f"{folder.uri}/results.json",), metrics=metrics)


def log_metrics(
    run: Run, results: Mapping[str, Mapping[str, EvaluationResult]], files: Sequence[CheckpointFile]
) -> dict[str, float]:
    """Log every number; those of checkpoints of one training as one curve over its epochs. Returns them by name."""
    from facelib.evaluation.comparison import named_metrics

    curves = {file.name: file for file in files if file.series}
    points = named_metrics({name: by_set for name, by_set in results.items() if name not in curves})
    run.log_metrics({f"test/{name}": number for name, number in points.items()})
    for name, file in curves.items():
        point = named_metrics({file.series: results[name]})
        run.log_metrics({f"test/{metric}": number for metric, number in point.items()}, file.step)
    return named_metrics(results)


def log_sets(settings: Settings, run: Run, sets: Sequence[EvaluationSet]) -> dict[str, Any]:
    """Tell MLflow of the sets; returns the rules of each by its name, see `set_rules`."""
    from facelib.evaluation.protocols import parse_spec
    from ray_jobs.datasets.dataset_report import log_set
    from ray_jobs.embedding.rules import describe_rules, evaluation_options, set_rules

    options, rules = evaluation_options(settings), {}
    for s, text in zip(sets, set_texts(settings), strict=True):
        spec = parse_spec(text)
        log_set(run, spec, "test", len(s.faces))
        rules[s.name] = set_rules(settings, spec, s, options)
        run.set_tag(f"rules.{s.name}", describe_rules(rules[s.name]))
    return rules


def set_texts(settings: Settings) -> list[str]:
    """`evaluate.sets`, with the path of `heldout`."""
    heldout = f"heldout={settings.path(settings.data.heldout)}"
    return [heldout if text == "heldout" else text for text in settings.evaluate.sets]


def open_sets(settings: Settings) -> list[EvaluationSet]:
    """Open `evaluate.sets`, each of which must have its own name."""
    from facelib.evaluation.protocols import open_set, parse_spec
    from ray_jobs.embedding.rules import set_defaults
    from ray_jobs.validation import check_unique

    sets = []
    for text in set_texts(settings):
        try:
            sets.append(open_set(text, set_defaults(settings, parse_spec(text))))
        except (FileNotFoundError, SettingsError):
            raise
        except ValueError as error:
            raise JobError(f"evaluate.sets: {error}") from error
    check_unique("evaluate.sets", [s.name for s in sets], "give the sets names, name=path")
    return sets


if __name__ == "__main__":
    main(evaluate)
