"""Verification: models and honest baselines on the same pairs, with intervals, pictures, a table and JSON.

Judges <output>/ssl/model.pt, or evaluate.models, on evaluate.sets: `heldout` (synthetic people training never saw) and
.bin files. Writes <output>/evaluation. Beside every model stand the same network untrained, raw pixels, and pixels
whitened by PCA on the training faces.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from rich.console import Console

from facelib.config import EvaluateSettings, Settings
from facelib.evaluation import (
    PixelEmbedding,
    VerificationReport,
    WhitenedPixels,
    compare_auc,
    evaluate_pairs,
    plot_roc,
    plot_score_histograms,
    plot_worst_pairs,
    results_tables,
)
from facelib.faces import Contract, FaceDataset, Folder, decode_image
from facelib.models import read_checkpoint
from facelib.sources.pair_sets import PairSet, load_pair_set
from facelib.tracking import Run
from ray_jobs.progress import ProgressReport
from ray_jobs.session import JobError, run_job

FOLDS = 10  # the field's protocol


@dataclass(frozen=True)
class Judged:
    """A model to judge: where it lies, or None for the same architecture untrained."""

    name: str
    path: str
    untrained: bool = False


def evaluate(settings: Settings, run: Run) -> str:
    """Judge all models on all sets."""
    ask = settings.evaluate
    paths = [settings.path(p) for p in ask.models]
    models = [Judged(name, path) for name, path in zip(_model_names(paths), paths, strict=True)]
    sets = [load_pair_set(_set_spec(settings, spec), ask.pairs, settings.seed) for spec in ask.sets]
    _refuse_duplicates("evaluate.models", [m.name for m in models], "give each checkpoint once, under its own name")
    _refuse_duplicates("evaluate.sets", [s.name for s in sets], "give them names, name=path")
    for s in sets:
        if len(s.issame) < FOLDS:
            raise JobError(
                f"evaluate.sets: {s.name} has {len(s.issame)} pairs, k-fold accuracy needs at least {FOLDS}; for "
                "held-out faces, raise generate.heldout_identities or generate.images_per_identity"
            )
    for model in models:
        _check_contract(model, sets)
    if ask.baselines:
        models += _untrained(models)
    embeddings = {m.name: _embed_sets(m, sets, ask) for m in models}
    if ask.baselines:
        embeddings |= _pixel_baselines(settings, sets)
    scores = {name: {s.name: _similarities(e[s.name], s) for s in sets} for name, e in embeddings.items()}
    reports = {
        name: {
            s.name: evaluate_pairs(
                _side(e, s, s.first), _side(e, s, s.second), s.issame, ask.fars, ask.bootstrap, settings.seed, FOLDS
            )
            for s in sets
        }
        for name, e in embeddings.items()
    }
    folder = Folder(settings.path("evaluation")).create()
    _write_pictures(folder, run, sets, scores, [m.name for m in models if not m.untrained])
    result = {
        "models": {m.name: {"path": m.path, "training": _training_summary(m)} for m in models if not m.untrained},
        "reports": {name: {s: r.to_dict() for s, r in by_set.items()} for name, by_set in reports.items()},
        "gains": _gains(models, sets, scores, settings.seed) if ask.baselines and ask.bootstrap else {},
    }
    folder.write("results.json", json.dumps(result, indent=1).encode())
    run.log_json(result, "results.json")
    _log_metrics(run, reports)
    _print(reports, result)
    return f"{folder.uri}/results.json"


class Embedder:
    """Ray actor: one backbone, embedding encoded faces."""

    def __init__(self, model: Judged, ask: EvaluateSettings, seed: int) -> None:
        import torch

        from facelib.models import build_backbone, load_backbone

        device = torch.device("cuda" if ask.gpus_per_actor > 0 else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(ask.cpus_per_actor)))
        if model.untrained:
            checkpoint = read_checkpoint(model.path)
            torch.manual_seed(seed)
            backbone = build_backbone(checkpoint.name, **checkpoint.settings)
        else:
            backbone = load_backbone(model.path)
        self.backbone = backbone.to(device).eval().to(memory_format=torch.channels_last)
        self.ask = ask

    def embed(self, images: list[bytes]) -> np.ndarray:
        """float32 [N, D]."""
        from facelib.embedding import embed_images

        return embed_images(self.backbone, images, self.ask.flip, self.ask.batch_size, self.ask.precision)


def _embed_sets(model: Judged, sets: Sequence[PairSet], ask: EvaluateSettings) -> dict[str, np.ndarray]:
    actor_class = ray.remote(num_cpus=ask.cpus_per_actor, num_gpus=ask.gpus_per_actor)(Embedder)
    total = sum(len(s.images) for s in sets)
    actors = [actor_class.remote(model, ask, 0) for _ in range(min(ask.actors, -(-total // ask.batch_size)))]
    pool = ray.util.ActorPool(actors)
    out = {}
    with ProgressReport(f"embedding with {model.name}", total) as progress:
        for pair_set in sets:
            chunks = [pair_set.images[b : b + ask.batch_size] for b in range(0, len(pair_set.images), ask.batch_size)]
            pieces = []
            for piece in pool.map(lambda actor, chunk: actor.embed.remote(chunk), chunks):
                pieces.append(piece)
                progress.advance(len(piece))
            out[pair_set.name] = np.concatenate(pieces)
    for actor in actors:
        ray.kill(actor)
    return out


def _pixel_baselines(settings: Settings, sets: Sequence[PairSet]) -> dict[str, dict[str, np.ndarray]]:
    dataset = FaceDataset(settings.path(settings.data.dataset))
    for s in sets:
        dataset.contract.require(s.contract, f"dataset {dataset.folder.uri}, for the whitened pixels,", f"set {s.name}")
    faces = _sample_faces(dataset, settings.evaluate.baseline_images)
    pixels = {s.name: np.stack([decode_image(data) for data in s.images]) for s in sets}
    baselines = {"raw pixels": PixelEmbedding(), "whitened pixels": WhitenedPixels.fit(faces)}
    return {name: {s: b.embed(images) for s, images in pixels.items()} for name, b in baselines.items()}


def _sample_faces(dataset: FaceDataset, count: int) -> np.ndarray:
    """Up to `count` faces, spread over as many parts as they come from."""
    share = -(-count // len(dataset.manifest.parts))
    images: list[np.ndarray] = []
    for table in dataset.tables(["image"]):
        step = max(1, len(table) // share)
        images += [decode_image(data) for data in table["image"].to_pylist()[::step][:share]]
    return np.stack(images[:count])


def _side(embeddings: dict[str, np.ndarray], pair_set: PairSet, index: np.ndarray) -> np.ndarray:
    return embeddings[pair_set.name][index]


def _similarities(embeddings: np.ndarray, pair_set: PairSet) -> np.ndarray:
    unit = embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return np.einsum("pd,pd->p", unit[pair_set.first], unit[pair_set.second])


def _write_pictures(
    folder: Folder, run: Run, sets: Sequence[PairSet], scores: dict[str, dict[str, np.ndarray]], trained: list[str]
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        paths = []
        for s in sets:
            by_model = {name: (by_set[s.name], s.issame) for name, by_set in scores.items()}
            paths.append(plot_roc(by_model, Path(temporary) / f"roc_{s.name}.png", title=f"ROC on {s.name}"))
            for name in trained:
                paths.append(
                    plot_score_histograms(
                        scores[name][s.name],
                        s.issame,
                        Path(temporary) / f"scores_{name}_{s.name}.png",
                        title=f"{name} on {s.name}",
                    )
                )
                sides = _Pictures(s.images, s.first), _Pictures(s.images, s.second)
                worst = Path(temporary) / f"worst_{name}_{s.name}.png"
                paths.append(plot_worst_pairs(*sides, scores[name][s.name], s.issame, worst))
        for path in paths:
            run.log_file(path, "pictures")
            folder.write(Path(path).name, Path(path).read_bytes())


class _Pictures(Sequence[np.ndarray]):
    """One side of the pairs, decoded only where it is looked at."""

    def __init__(self, images: list[bytes], index: np.ndarray) -> None:
        self.images, self.index = images, index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, pair: Any) -> Any:
        return decode_image(self.images[self.index[pair]])


def _gains(
    models: Sequence[Judged], sets: Sequence[PairSet], scores: dict[str, dict[str, np.ndarray]], seed: int
) -> dict[str, Any]:
    """ROC-AUC of each trained model minus each baseline's on the same pairs, with a paired 95 % interval."""
    trained = [m.name for m in models if not m.untrained]
    gains: dict[str, Any] = {}
    for name in trained:
        for other in (n for n in scores if n not in trained):
            for s in sets:
                compared = compare_auc(scores[name][s.name], scores[other][s.name], s.issame, seed=seed)
                gains.setdefault(name, {}).setdefault(other, {})[s.name] = {
                    "difference": compared.difference,
                    "low": compared.interval.low,
                    "high": compared.interval.high,
                }
    return gains


def _training_summary(model: Judged) -> dict[str, Any]:
    """Loss and training accuracy of the chosen epoch, from the history beside the checkpoint.

    Empty for foreign models.
    """
    path = Path(model.path).with_name("history.json")
    if "://" in model.path or not path.exists():
        return {}
    history = json.loads(path.read_text())
    best = (read_checkpoint(model.path).contract or {}).get("training", {}).get("epoch")
    chosen = [h for h in history if h["epoch"] == best] or history[-1:]
    names = ("epoch", "loss", "contrast_accuracy", "train_accuracy")
    return {k: v for h in chosen for k, v in h.items() if k in names}


def _print(reports: dict[str, dict[str, VerificationReport]], result: dict[str, Any]) -> None:
    # Logs have no width of their own; 80 columns would break every row.
    console = Console(width=None if Console().is_terminal else 132)
    for table in results_tables(reports):
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
    for warning in dict.fromkeys(w for by_set in reports.values() for r in by_set.values() for w in r.warnings):
        console.print(f"warning: {warning}")


def _log_metrics(run: Run, reports: dict[str, dict[str, VerificationReport]]) -> None:
    metrics = {}
    for name, by_set in reports.items():
        for set_name, report in by_set.items():
            prefix = f"{set_name}/{name.replace(' ', '_')}"
            metrics |= {f"{prefix}/auc": report.auc, f"{prefix}/eer": report.eer}
            if report.accuracy is not None:
                metrics[f"{prefix}/accuracy"] = report.accuracy
            metrics |= {f"{prefix}/tar_at_far_{far:g}": tar for far, tar in report.tar_at_far.items()}
    run.log_metrics(metrics)


def _check_contract(model: Judged, sets: Sequence[PairSet]) -> None:
    if not Path(model.path).exists() and "://" not in model.path:
        raise JobError(f"evaluate.models: {model.path} does not exist; train it first, or name another checkpoint")
    found = read_checkpoint(model.path).contract
    if found is None:
        return  # Published checkpoints carry none; their crops are the arcface template by convention.
    contract = Contract(**{k: found[k] for k in Contract.model_fields})
    for s in sets:
        contract.require(s.contract, f"model {model.name}", f"set {s.name}")


def _untrained(models: Sequence[Judged]) -> list[Judged]:
    """The untrained twin of every architecture among the models."""
    twins: dict[str, Judged] = {}
    for model in models:
        checkpoint = read_checkpoint(model.path)
        key = json.dumps([checkpoint.name, checkpoint.settings], sort_keys=True)
        twins.setdefault(key, Judged("untrained", model.path, untrained=True))
    found = list(twins.values())
    return found if len(found) == 1 else [Judged(f"untrained {i}", m.path, True) for i, m in enumerate(found, 1)]


def _set_spec(settings: Settings, spec: str) -> str:
    return f"heldout={settings.path(settings.data.heldout)}" if spec == "heldout" else spec


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


def _refuse_duplicates(field: str, values: Sequence[str], advice: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise JobError(f"{field}: {value} is there twice; {advice}")


if __name__ == "__main__":
    run_job("evaluate", evaluate, __doc__)
