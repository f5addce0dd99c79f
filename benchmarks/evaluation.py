"""Time and memory of the evaluation: IJB-C-sized template protocol against the published procedure, k-fold, intervals.

The synthetic set has IJB-C's numbers: 469,375 images of 23,124 templates (3,531 gallery, 19,593 probe) with 512
features, and 15,658,489 gallery-probe pairs. `--fraction` scales the pairs, its square root images and templates.

    python benchmarks/evaluation.py              # 2 % of IJB-C and the metrics of the five .bin sets, within a minute
    python benchmarks/evaluation.py --full       # the same at IJB-C's size, at most 4 GiB, about three minutes
    python benchmarks/evaluation.py --embedding  # rate of the embedding actor against the network's own
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

IMAGES, GALLERY, PROBES, PAIRS, FEATURES = 469_375, 3_531, 19_593, 15_658_489, 512
BIN_PAIRS = (6_000, 6_000, 7_000, 6_000, 6_000)  # LFW, AgeDB-30, CFP-FP, CALFW, CPLFW
FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fraction", type=float, default=0.02, help="share of IJB-C's pairs")
    parser.add_argument("--full", action="store_true", help="the same as --fraction 1")
    parser.add_argument("--embedding", action="store_true", help="embed images instead")
    parser.add_argument("--scattered", action="store_true", help="pairs of any two templates, not gallery and probe")
    parser.add_argument("--side", choices=["ours", "published", "pairs"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    fraction = 1.0 if options.full else options.fraction
    if options.embedding:
        time_embedding()
    elif options.side == "pairs":
        time_pairs()
    elif options.side:
        time_templates(options.side, fraction, options.scattered)
    else:
        for side in ("ours", "published", "pairs"):
            # A process of its own for each, so that its peak memory is its own.
            flags = ["--side", side, "--fraction", str(fraction)] + ["--scattered"] * options.scattered
            subprocess.run([sys.executable, os.path.abspath(__file__), *flags], check=True)


def synthetic_set(fraction: float, scattered: bool) -> dict[str, np.ndarray]:
    """Images, templates and pairs with IJB-C's proportions; every template has at least one image."""
    rng = np.random.default_rng(0)
    gallery, probes, images = (max(20, int(count * fraction**0.5)) for count in (GALLERY, PROBES, IMAGES))
    templates, pairs = gallery + probes, max(2000, int(PAIRS * fraction))
    identity = np.concatenate([np.arange(gallery), rng.integers(0, gallery, probes)])
    template = np.concatenate([np.arange(templates), rng.integers(0, templates, images - templates)])
    centers = rng.standard_normal((gallery, FEATURES), dtype=np.float32)
    features = rng.standard_normal((images, FEATURES), dtype=np.float32)
    features *= 14
    for start in range(0, images, 10_000):
        features[start : start + 10_000] += centers[identity[template[start : start + 10_000]]]
    first = rng.integers(0, templates if scattered else gallery, pairs, dtype=np.int32)
    second = rng.integers(0 if scattered else gallery, templates, pairs, dtype=np.int32)
    # About 1 in 800 IJB-C pairs is genuine.
    genuine = rng.choice(pairs, pairs // 800, replace=False)
    second[genuine] = rng.integers(gallery, templates, len(genuine))
    first[genuine] = identity[second[genuine]]
    return {
        "features": features,
        "templates": template + 1,
        "medias": template * 8 + rng.integers(0, 8, images),
        "first": first + 1,
        "second": second + 1,
        "labels": identity[first] == identity[second],
    }


def time_templates(side: str, fraction: float, scattered: bool) -> None:
    data = synthetic_set(fraction, scattered)
    print(
        f"\n{side}: {len(data['features']):,} images, {data['templates'].max():,} templates, "
        f"{len(data['first']):,} pairs, {FEATURES} features ({'scattered' if scattered else 'gallery x probe'})"
    )
    print(f"  data in memory         {memory():8.0f} MiB")
    pool, score, rate = OURS if side == "ours" else PUBLISHED
    start, processor = time.perf_counter(), time.process_time()
    features, ids = stage("pooling", pool, data["features"], data["templates"], data["medias"])
    scores = stage("scoring", score, features, ids, data["first"], data["second"])
    tar = stage("TAR@FAR", rate, scores, data["labels"])
    elapsed, processor = time.perf_counter() - start, time.process_time() - processor
    print(f"  {'total':<22} {elapsed:8.3f} s ({processor:.3f} s of CPU time), peak memory {memory():.0f} MiB")
    print("  TAR % at " + ", ".join(f"{far:g}: {100 * value:.2f}" for far, value in zip(FARS, tar, strict=True)))
    if side == "ours":
        from facelib.evaluation import evaluate_scores

        stage("report, 1000 resamples", evaluate_scores, scores, data["labels"])


def time_pairs() -> None:
    from facelib.evaluation import compare_auc, evaluate_pairs

    rng = np.random.default_rng(0)
    print(f"\nthe five .bin sets, {FEATURES} features: every metric with 95 % intervals of 1,000 resamples")
    sets = []
    for pairs in BIN_PAIRS:
        same = np.arange(pairs) % 2 == 0
        first = rng.standard_normal((pairs, FEATURES), dtype=np.float32)
        second = np.where(same[:, None], 0.15 * first, 0) + rng.standard_normal((pairs, FEATURES), dtype=np.float32)
        sets.append((first, second, same))
    stage("all five", lambda: [evaluate_pairs(*s) for s in sets])
    first, second, same = sets[0]
    scores = np.sum(first * second, axis=1)
    stage("compare_auc, one set", compare_auc, scores, scores + rng.normal(size=len(scores)), same)


def time_embedding(faces: int = 512, network: str = "iresnet10-narrow", batch: int = 64, repeats: int = 5) -> None:
    """Faces per second of the embedding actor's work (JPEG in, decoding beside the network) and of the network alone.

    Both run in this process, alternating, so that what else the machine does falls on both.
    """
    import torch

    from facelib.config import EvaluateSettings
    from facelib.data import encode_image
    from facelib.embedding import embed_images
    from facelib.evaluation.protocols import EncodedImages
    from facelib.models import build_backbone, save_backbone
    from ray_jobs.embedding.evaluation_sets import EmbeddingActor
    from ray_jobs.embedding.models import EmbeddingModel

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = np.stack([smooth_image(rng.integers(0, 255, (14, 14, 3), dtype=np.uint8)) for _ in range(faces)])
    encoded = EncodedImages([encode_image(image) for image in images])
    backbone = build_backbone(network).eval().to(memory_format=torch.channels_last)
    cfg = EvaluateSettings(batch_size=batch)
    with tempfile.TemporaryDirectory() as folder:
        save_backbone(f"{folder}/model.pt", backbone, network, {}, {})
        actor = EmbeddingActor([EmbeddingModel(network, f"{folder}/model.pt")], cfg)

        def pool() -> None:
            parts = [encoded.part(begin, begin + batch) for begin in range(0, faces, batch)]
            with ThreadPoolExecutor(1 + cfg.decoders) as threads:
                list(threads.map(lambda part: actor.embed(0, part, "sum"), parts))

        def alone() -> None:
            embed_images(backbone, images, batch_size=batch)

        pool()
        alone()
        times = np.array([[rates(work, faces) for work in (alone, pool)] for _ in range(repeats)])
    print(f"{network}, both flips, float32, batches of {batch}, one thread, {faces} faces, median of {repeats}")
    for column, clock in enumerate(("wall-clock", "per CPU second")):
        own, rate = np.median(times[:, :, column], axis=0)
        share = times[:, 1, column] / times[:, 0, column]
        print(
            f"  {clock:<15} network alone {own:7.1f}, actor {rate:7.1f} faces: {share.min():.2f} to {share.max():.2f}"
        )


def rates(work: Callable[[], None], faces: int) -> tuple[float, float]:
    """Faces per second of wall time, and of CPU time."""
    start, processor = time.perf_counter(), time.process_time()
    work()
    return faces / (time.perf_counter() - start), faces / (time.process_time() - processor)


def smooth_image(image: np.ndarray) -> np.ndarray:
    """A smooth image of 112 pixels, which compresses like a face."""
    import cv2

    return cv2.resize(image, (112, 112), interpolation=cv2.INTER_CUBIC)


def stage(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    start, processor = time.perf_counter(), time.process_time()
    result = function(*arguments)
    elapsed, processor = time.perf_counter() - start, time.process_time() - processor
    print(f"  {name:<22} {elapsed:8.3f} s ({processor:.3f} s of CPU time)", flush=True)
    return result


def memory() -> float:
    """Peak resident memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def our_tar(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    from facelib.evaluation import tar_at_far

    return tar_at_far(scores, labels, FARS)


def our_pooling(*arguments: Any) -> Any:
    from facelib.evaluation import template_features

    return template_features(*arguments)


def our_scores(*arguments: Any) -> Any:
    from facelib.evaluation import score_templates

    return score_templates(*arguments)


def published_pooling(features: np.ndarray, templates: np.ndarray, medias: np.ndarray) -> Any:
    """Template by template: search its images, then its media."""
    ids = np.unique(templates)
    pooled = np.zeros((len(ids), features.shape[1]))
    for row, template in enumerate(ids):
        (members,) = np.where(templates == template)
        inside, media = features[members], medias[members]
        means = [inside[media == medium].mean(axis=0, keepdims=True) for medium in np.unique(media)]
        pooled[row] = np.concatenate(means).sum(axis=0)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True), ids


def published_scores(features: np.ndarray, ids: np.ndarray, first: np.ndarray, second: np.ndarray) -> Any:
    """Pairs in batches of 100,000: fetch both sides, multiply, add up."""
    row = np.zeros(ids.max() + 1, dtype=int)
    row[ids] = np.arange(len(ids))
    scores = np.zeros(len(first))
    for start in range(0, len(first), 100_000):
        part = slice(start, start + 100_000)
        scores[part] = np.sum(features[row[first[part]]] * features[row[second[part]]], axis=-1)
    return scores


def published_tar(scores: np.ndarray, labels: np.ndarray) -> Any:
    """The nearest point of scikit-learn's curve."""
    from sklearn.metrics import roc_curve

    far, tar, _ = roc_curve(labels, scores)
    return [tar[::-1][np.argmin(np.abs(far[::-1] - target))] for target in FARS]


OURS = (our_pooling, our_scores, our_tar)
PUBLISHED = (published_pooling, published_scores, published_tar)

if __name__ == "__main__":
    main()
