"""Models on evaluation sets, each by its protocol, beside honest baselines: tables, intervals, pictures, JSON.

Judges <output>/ssl/model.pt, or evaluate.models, on evaluate.sets: `heldout` (synthetic people training never saw),
.bin files, IJB-B/C, K-FACE, groups, or a protocol of your own. Writes <output>/evaluation. Beside every model stand the
same network untrained, raw pixels, and pixels whitened by PCA on the training faces.
"""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from facelib.config import Settings, SettingsError
from facelib.data import DatasetError, FaceDataset, Folder, ImageSpec, decode_image
from facelib.data.lock import directory_lock
from facelib.evaluation import (
    EvaluationOptions,
    PixelEmbedding,
    WhitenedPixels,
    compare_auc,
    results_tables,
    transfer_thresholds,
)
from facelib.evaluation.protocols import EvaluationResult, EvaluationSet, open_set
from facelib.evaluation.roc import check_fars
from facelib.models import read_checkpoint
from facelib.models.checkpoints import BackboneCheckpoint
from facelib.tracking import Run
from ray_jobs.cli import run_job
from ray_jobs.embedding.pictures import write_map, write_pictures
from ray_jobs.embedding.pool import EmbeddingModel, embed_sets
from ray_jobs.errors import JobError
from ray_jobs.results import JobResult
from ray_jobs.validation import check_sets, check_unique, checked_field

Results = dict[str, dict[str, EvaluationResult]]  # by model name, then set name


def validate(settings: Settings, upcoming: Collection[str] = ()) -> None:
    """Check sets, rates and ranks.

    Raises:
        SettingsError: names the setting, what is wrong with it and the valid choices.
    """
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
    specs = check_sets("evaluate.sets", [spec for spec in cfg.sets if spec != "heldout"])
    names = [spec.name for spec in specs] + ["heldout"] * ("heldout" in cfg.sets)
    if cfg.threshold_set and cfg.threshold_set not in names:
        raise SettingsError(
            f"evaluate.threshold_set: no set is named {cfg.threshold_set!r}; choose from {', '.join(names)}"
        )


def evaluate(settings: Settings, run: Run) -> JobResult:
    """Judge all models on all sets."""
    cfg = settings.evaluate
    paths = [settings.path(p) for p in cfg.models]
    models = [EmbeddingModel(name, path) for name, path in zip(_model_names(paths), paths, strict=True)]
    check_unique("evaluate.models", [m.name for m in models], "give each checkpoint once, under its own name")
    sets = _open_sets(settings)
    checkpoints = {model.name: _checkpoint(model) for model in models}
    for model in models:
        _check_image_spec(model, checkpoints[model.name], sets)
    work = [(model, s) for model in models for s in sets]
    if cfg.baselines:
        work += [(twin, s) for twin in _untrained(models, checkpoints) for s in sets]
        work += _pixel_baselines(settings, sets)
    folder = Folder(settings.path("evaluation")).create()
    with directory_lock(folder, "evaluate"):
        results = _judge(settings, run, folder, work)
        trained = [m.name for m in models]
        write_pictures(folder, run, sets, results, trained)
        result = {
            "models": {m.name: {"path": m.path, "training": _training_summary(m, checkpoints[m.name])} for m in models},
            "reports": {name: {s: m.report.to_dict() for s, m in by_set.items()} for name, by_set in results.items()},
            "gains": _gains(trained, results, settings.seed) if cfg.baselines and cfg.bootstrap else {},
            "thresholds": _thresholds(settings, results),
        }
        folder.write("results.json", json.dumps(result, indent=1).encode())
    run.log_json(result, "results.json")
    metrics = _metrics(results)
    run.log_metrics(metrics)
    _print(results, result, cfg.threshold_set)
    return JobResult(written=(f"{folder.uri}/results.json",), metrics=metrics)


def _judge(settings: Settings, run: Run, folder: Folder, work: list[tuple[EmbeddingModel, EvaluationSet]]) -> Results:
    """Embed every set by every model that it is wanted of, and measure; sets in the order they were given."""
    cfg = settings.evaluate
    cache = Folder(f"{folder.uri}/embeddings").create() if cfg.cache else None
    measures = EvaluationOptions(
        tuple(cfg.fars), cfg.far_rule, cfg.bootstrap, settings.seed, tuple(cfg.ranks), tuple(cfg.fpirs)
    )
    results: Results = {model.name: {} for model, _ in work}
    for model, s, embeddings in embed_sets(work, cfg, cache, settings.ray.autoscaling):
        results[model.name][s.name] = s.measure(embeddings, measures)
        if model.trained:
            write_map(folder, run, model.name, s, embeddings)
        del embeddings
    order = list(dict.fromkeys(s.name for _, s in work))
    return {name: {s: found[s] for s in order if s in found} for name, found in results.items()}


def _open_sets(settings: Settings) -> list[EvaluationSet]:
    """The sets; each is wanted once."""
    defaults = {"pairs": settings.evaluate.pairs, "seed": settings.seed}
    sets = []
    for spec in settings.evaluate.sets:
        if spec == "heldout":
            spec = f"heldout={settings.path(settings.data.heldout)}"
        try:
            sets.append(open_set(spec, defaults))
        except FileNotFoundError:
            raise
        except ValueError as error:
            raise JobError(f"evaluate.sets: {error}") from error
    check_unique("evaluate.sets", [s.name for s in sets], "give the sets names, name=path")
    return sets


def _checkpoint(model: EmbeddingModel) -> BackboneCheckpoint:
    try:
        return read_checkpoint(model.path)
    except FileNotFoundError as error:
        raise JobError(f"evaluate.models: {error}; train it first, or name another checkpoint") from None


def _check_image_spec(model: EmbeddingModel, checkpoint: BackboneCheckpoint, sets: Sequence[EvaluationSet]) -> None:
    """Refuse sets of another kind than the model's faces, as far as the checkpoint says what those were."""
    for s in sets:
        # What a checkpoint does not say (published ones say nothing) is taken to be as the set has it.
        trained_on = s.image_spec.overlaid(checkpoint.image_spec)
        trained_on.require(s.image_spec, f"model {model.name}", f"set {s.name}")
    unsaid = [field for field in ImageSpec.model_fields if field not in (checkpoint.image_spec or {})]
    if unsaid:
        print(f"{model.name}: the checkpoint does not say its {', '.join(unsaid)}; taken to be the sets'", flush=True)


def _untrained(models: Sequence[EmbeddingModel], checkpoints: dict[str, BackboneCheckpoint]) -> list[EmbeddingModel]:
    """The untrained twin of every architecture among the models."""
    twins: dict[str, str] = {}
    for model in models:
        checkpoint = checkpoints[model.name]
        twins.setdefault(json.dumps([checkpoint.name, checkpoint.settings], sort_keys=True), model.path)
    names = ["untrained"] if len(twins) == 1 else [f"untrained {i}" for i in range(1, len(twins) + 1)]
    return [EmbeddingModel(name, path, untrained=True) for name, path in zip(names, twins.values(), strict=True)]


def _pixel_baselines(settings: Settings, sets: Sequence[EvaluationSet]) -> list[tuple[EmbeddingModel, EvaluationSet]]:
    """Raw pixels on every set, whitened pixels on those of the training faces' kind; says what is left out, and why."""
    raw = EmbeddingModel("raw pixels", pixels=PixelEmbedding())
    work = [(raw, s) for s in sets]
    try:
        dataset = FaceDataset(settings.path(settings.data.dataset))
    except DatasetError as error:
        print(f"whitened pixels are left out, there are no faces to fit them on: {error}", flush=True)
        return work
    fitting = []
    for s in sets:
        try:
            dataset.image_spec.require(s.image_spec, f"dataset {dataset.folder.uri}", f"set {s.name}")
            fitting.append(s)
        except DatasetError as error:
            print(f"whitened pixels are left out on {s.name}: {error}", flush=True)
    if fitting:
        faces = _sample_faces(dataset, settings.evaluate.baseline_images)
        whitened = EmbeddingModel("whitened pixels", pixels=WhitenedPixels.fit(faces))
        work += [(whitened, s) for s in fitting]
    return work


def _sample_faces(dataset: FaceDataset, count: int) -> np.ndarray:
    """Up to `count` faces, spread over as many parts as they come from."""
    share = -(-count // len(dataset.manifest.parts))
    images: list[np.ndarray] = []
    for table in dataset.tables(["image"]):
        step = max(1, len(table) // share)
        images += [decode_image(data) for data in table["image"].to_pylist()[::step][:share]]
    return np.stack(images[:count])


def _gains(trained: Sequence[str], results: Results, seed: int) -> dict[str, Any]:
    """ROC-AUC of each trained model minus each baseline's on the same pairs, with a paired 95 % interval."""
    gains: dict[str, Any] = {}
    for name in trained:
        for other in (n for n in results if n not in trained):
            for set_name, ours in results[name].items():
                theirs = results[other].get(set_name)
                if theirs is None or ours.similarities is None:
                    continue
                compared = compare_auc(ours.similarities, theirs.similarities, ours.issame, seed=seed)
                gains.setdefault(name, {}).setdefault(other, {})[set_name] = {
                    "difference": compared.difference,
                    "low": compared.interval.low,
                    "high": compared.interval.high,
                }
    return gains


def _thresholds(settings: Settings, results: Results) -> dict[str, Any]:
    """Error rates on each set at thresholds fixed on evaluate.threshold_set, by model and set."""
    cfg = settings.evaluate
    if not cfg.threshold_set:
        return {}
    found: dict[str, Any] = {}
    for name, by_set in results.items():
        calibration = by_set[cfg.threshold_set].sorted_scores() if cfg.threshold_set in by_set else None
        if calibration is None:
            continue
        for set_name, measured in by_set.items():
            scores = measured.sorted_scores()
            if set_name != cfg.threshold_set and scores is not None:
                points = transfer_thresholds(calibration, scores, cfg.fars, cfg.bootstrap, settings.seed)
                found.setdefault(name, {})[set_name] = [point.to_dict() for point in points]
    if not found:
        raise JobError(
            f"evaluate.threshold_set: {cfg.threshold_set!r} sets no threshold for another set; there are "
            f"{', '.join(dict.fromkeys(s for by_set in results.values() for s in by_set))}, and both need pairs"
        )
    return found


def _training_summary(model: EmbeddingModel, checkpoint: BackboneCheckpoint) -> dict[str, Any]:
    """Loss and training accuracy of the chosen epoch, from the history beside the checkpoint.

    Empty for foreign models.
    """
    place, _, _ = model.path.rpartition("/")
    folder = Folder(place or ".")
    if not folder.exists("history.json"):
        return {}
    history = json.loads(folder.read("history.json"))
    best = (checkpoint.image_spec or {}).get("training", {}).get("epoch")
    chosen = [h for h in history if h["epoch"] == best] or history[-1:]
    names = ("epoch", "loss", "contrast_accuracy", "train_accuracy")
    return {k: v for h in chosen for k, v in h.items() if k in names}


def _print(results: Results, result: dict[str, Any], threshold_set: str) -> None:
    # Logs have no width of their own; 80 columns would break every row.
    console = Console(width=None if Console().is_terminal else 132)
    for table in results_tables({name: {s: m.report for s, m in by_set.items()} for name, by_set in results.items()}):
        console.print(table)
    for name, model in result["models"].items():
        if model["training"]:
            words = ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in model["training"].items())
            console.print(f"{name} in training: {words}")
    for name, others in result["gains"].items():
        for other, by_set in others.items():
            for set_name, gain in by_set.items():
                interval = f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
                console.print(f"{name} − {other} on {set_name}: AUC {gain['difference']:+.4f} {interval}")
    for name, by_set in result["thresholds"].items():
        for set_name, points in by_set.items():
            for p in points:
                console.print(
                    f"{name} on {set_name}, threshold {p['threshold']:.4f} (FAR {p['far']:g} on {threshold_set}): "
                    f"FMR {p['fmr']:.3g}, FNMR {p['fnmr']:.3g}, accuracy {p['accuracy']:.4f}"
                )
    warnings = [(s, w) for by_set in results.values() for s, m in by_set.items() for w in m.report.warnings]
    for set_name, warning in dict.fromkeys(warnings):
        console.print(f"warning, {set_name}: {warning}")


def _metrics(results: Results) -> dict[str, float]:
    """Every number of every report, by `set/model/metric`."""
    return {
        f"{set_name}/{name.replace(' ', '_')}/{key}": value
        for name, by_set in results.items()
        for set_name, measured in by_set.items()
        for key, value in measured.report.metrics().items()
    }


def _model_names(paths: Sequence[str]) -> list[str]:
    """A name for each checkpoint: its folder's if it is called model.pt, with folders above it where two are alike."""
    stems = [Path(p).with_suffix("").parts for p in paths]
    stems = [s[:-1] if s[-1] == "model" and len(s) > 2 else s for s in stems]
    names = ["-".join(s[-1:]) for s in stems]
    for length in range(2, max(map(len, stems), default=1) + 1):
        names = [
            "-".join(s[-length:]).replace("/", "") if names.count(n) > 1 else n
            for n, s in zip(names, stems, strict=True)
        ]
    return names


if __name__ == "__main__":
    run_job("evaluate", evaluate, __doc__)
