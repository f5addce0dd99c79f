"""Margin heads with and without unified negatives on the same faces, several seeds each: mean and standard deviation.

    python benchmarks/heads.py --faces runs/unpg_cpu --output runs/heads --lfw lfw.bin [--seeds 0 1 2] [--together 2]
                               [-- --train.epochs 3 --model.init_from runs/ssl_cpu/ssl/model.pt]

Trains every head with every seed by `ray_jobs.train_unpg` and `configs/unpg_cpu.yaml` (what follows `--` is passed on),
then evaluates all models on held-out synthetic pairs and on the verification set. Finished trainings are recognized, so
the same command continues after an interruption. Writes results.json and heads.png. `--together` trains that many
models at once, each with one worker: on few cores that is faster than DDP.
"""

import argparse
import concurrent.futures
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.stats
import torch

from facelib.data.pairs import PairSet
from facelib.embedding import embed_images
from facelib.evaluation import kfold_accuracy, roc_auc
from facelib.models import load_backbone
from facelib.sources.pair_sets import load_pair_set
from facelib.utils.arrays import l2_normalize

HEADS = {
    "ArcFace": ("--unpg.head", "arcface", "--unpg.wisk", "null"),
    "ArcFace + UNPG": ("--unpg.head", "arcface", "--unpg.wisk", "1.5"),
    "CosFace": ("--unpg.head", "cosface", "--unpg.wisk", "null"),
    "CosFace + UNPG": ("--unpg.head", "cosface", "--unpg.wisk", "1.5"),
}
Results = dict[str, dict[str, list[float]]]  # head -> measure -> a value for each seed


def main() -> None:
    """Train missing models, evaluate all, print and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="folder that holds faces/ and heldout/")
    parser.add_argument("--output", type=Path, default=Path("runs/heads"))
    parser.add_argument("--config", default="configs/unpg_cpu.yaml")
    parser.add_argument("--lfw", help="a .bin verification set, or several joined by +")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--together", type=int, default=1, help="trainings at once")
    parser.add_argument("flags", nargs="*", help="settings of every training, after --")
    arguments = parser.parse_args()
    runs = {(head, seed): folder_of(arguments.output, head, seed) for seed in arguments.seeds for head in HEADS}
    with concurrent.futures.ThreadPoolExecutor(arguments.together) as pool:
        list(pool.map(lambda key: train(key[0], key[1], runs[key], arguments), runs))
    sets = [load_pair_set(f"heldout={(arguments.faces / 'heldout').absolute()}", 3000, 0)]
    if arguments.lfw:
        sets.append(load_pair_set(f"lfw={arguments.lfw}"))
    results: Results = {head: {} for head in HEADS}
    for (head, _), folder in runs.items():
        for measure, value in evaluate(folder / "unpg" / "model.pt", sets).items():
            results[head].setdefault(measure, []).append(value)
    (arguments.output / "results.json").write_text(json.dumps(results, indent=1))
    print_tables(results)
    draw(results, arguments.output / "heads.png")


def folder_of(output: Path, head: str, seed: int) -> Path:
    """Output folder of one training."""
    return output.absolute() / f"{head.lower().replace(' + ', '_')}_{seed}"


def train(head: str, seed: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Run one training unless it is finished; its output goes to a log beside it."""
    if (folder / "unpg" / "model.pt").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    faces = arguments.faces.absolute()
    command = [
        sys.executable, "-m", "ray_jobs.train_unpg", "--config", arguments.config, "--output", str(folder),
        "--data.dataset", str(faces / "faces"), "--data.heldout", str(faces / "heldout"), "--seed", str(seed),
        "--name", folder.name, *HEADS[head], *arguments.flags,
    ]  # fmt: skip
    with (folder / "train.log").open("w") as log:
        done = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{head}, seed {seed}: failed, see {folder / 'train.log'}")
    print(f"{head}, seed {seed}: trained", flush=True)


def evaluate(model: Path, sets: list[PairSet]) -> dict[str, float]:
    """ROC-AUC and 10-fold accuracy in percent on every set, flipped faces added."""
    backbone, results = load_backbone(model), {}
    for pair_set in sets:
        embeddings = embed_images(backbone, pair_set.images, flip="sum", precision="bfloat16")
        embeddings = l2_normalize(embeddings)
        first, second = embeddings[pair_set.first], embeddings[pair_set.second]
        results[f"{pair_set.name} AUC"] = float(roc_auc((first * second).sum(1), pair_set.issame))
        results[f"{pair_set.name} accuracy %"] = 100 * kfold_accuracy(first, second, pair_set.issame).accuracy
    return results


def print_tables(results: Results) -> None:
    """Mean ± standard deviation of every head, then the effect of UNPG, paired by seed."""
    measures = list(next(iter(results.values())))
    print(f"| head | {' | '.join(measures)} |\n|{'---|' * (len(measures) + 1)}")
    for head, values in results.items():
        cells = [f"{np.mean(values[m]):.4f} ± {np.std(values[m], ddof=1):.4f}" for m in measures]
        print(f"| {head} | {' | '.join(cells)} |")
    for head in ("ArcFace", "CosFace"):
        for measure in measures:
            change = np.subtract(results[f"{head} + UNPG"][measure], results[head][measure])
            half = scipy.stats.t.ppf(0.975, len(change) - 1) * scipy.stats.sem(change)
            print(f"UNPG on {head}, {measure}: {change.mean():+.4f} [{change.mean() - half:+.4f}, "
                  f"{change.mean() + half:+.4f}] (95 %, {len(change)} seeds)")  # fmt: skip


def draw(results: Results, path: Path) -> None:
    """One dot per training, one bar per mean."""
    from matplotlib.figure import Figure

    measures = [m for m in next(iter(results.values())) if m.endswith("AUC")]
    figure = Figure(figsize=(4.5 * len(measures), 3.2), layout="constrained")
    for axes, measure in zip(np.atleast_1d(figure.subplots(1, len(measures))), measures):
        for place, (head, color) in enumerate(zip(results, itertools.cycle(("#9aa5b1", "#1f6feb")))):
            values = results[head][measure]
            axes.plot(values, [place] * len(values), "o", color=color, alpha=0.8)
            axes.plot([np.mean(values)] * 2, [place - 0.3, place + 0.3], color=color, linewidth=2)
        axes.set_yticks(range(len(results)), list(results))
        axes.invert_yaxis()
        axes.set_title(measure)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
