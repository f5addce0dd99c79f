"""Coverage of 95 % intervals: how often they hold the truth, by simulation over five designs of evaluation sets.

Faces are drawn from a population of identities (a center each, identities of different difficulty); both models see the
same faces. Each repeat draws new identities, pairs them as evaluation does, and asks whether the interval holds the
value of the population, which is known from millions of pairs. k-fold accuracy has no such value: its truth is the mean
of all repeats. Beside it, the same with identities unknown ("pairs only").

    python -m benchmarks.coverage                     # 500 repeats; about half an hour on a core
    python -m benchmarks.coverage --repeats 50 --designs 0 1
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np

from facelib.data.pairs import draw_pairs
from facelib.evaluation import SortedScores, bootstrap_kfold, compare_auc, kfold_accuracy
from facelib.evaluation.bootstrap import bootstrap_sorted

DIMENSIONS = 24
FARS = (0.1, 0.01)
MEASURES = ("AUC", "EER", "TAR@0.1", "TAR@0.01", "accuracy", "AUC difference")


@dataclass(frozen=True)
class Design:
    """An evaluation set: identities, images of each (the last number goes to all others), pairs of each kind."""

    name: str
    identities: int
    images: tuple[int, ...]
    pairs: int

    def sizes(self) -> np.ndarray:
        """Images of each identity."""
        return np.array([*self.images, *[self.images[-1]] * (self.identities - len(self.images))])


# LFW: a third of the identities has more than one image, few have many.
LFW_IMAGES = (*(max(2, 30 // rank) for rank in range(1, 401)), 1)
DESIGNS = (
    Design("150 identities × 6", 150, (6,), 1000),
    Design("200 × 6", 200, (6,), 3000),
    Design("30 × 20 (as K-FACE Q1)", 30, (20,), 500),
    Design("30 × 60", 30, (60,), 8000),
    Design("1,200, long-tailed (as LFW)", 1200, LFW_IMAGES, 500),
)


def embed(rng: np.random.Generator, sizes: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Unit embeddings [N, D] of the faces of new identities by two models, and the identity of each."""
    identities = np.repeat(np.arange(len(sizes)), sizes)
    center, face = (rng.normal(size=(count, DIMENSIONS)) for count in (len(sizes), len(identities)))
    difficulty = np.exp(0.35 * rng.normal(size=(len(sizes), 1)))
    models = []
    for _ in range(2):
        own_center, own_face = (rng.normal(size=part.shape) for part in (center, face))
        spread = 1.25 * difficulty[identities] * (0.8 * face + 0.6 * own_face)
        vectors = (0.8 * center + 0.6 * own_center)[identities] + spread
        models.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return models, identities


def population(rounds: int = 20) -> list[float]:
    """AUC, EER and TARs of the population, the means of `rounds` large draws; both models have the same."""
    rng = np.random.default_rng(2**32)
    found = []
    for _ in range(rounds):
        (vectors, _), identities = embed(rng, np.full(3000, 2))
        first, second = rng.integers(0, len(vectors), (2, 500_000))
        other = identities[first] != identities[second]
        impostors = np.einsum("pd,pd->p", vectors[first[other]], vectors[second[other]])
        genuine = np.einsum("pd,pd->p", vectors[0::2], vectors[1::2])
        scores = SortedScores(np.sort(genuine), np.sort(impostors))
        found.append([scores.auc, scores.eer, *scores.strict_tar(np.array(FARS))])
    return np.mean(found, axis=0).tolist()


def measure(design: Design, seed: int, resamples: int, known: bool) -> tuple[list[float], list[tuple[float, float]]]:
    """The estimate and interval of each of MEASURES on one draw of a design."""
    models, numbers = embed(np.random.default_rng([seed, 0]), design.sizes())
    first, second, same = draw_pairs(numbers, design.pairs, seed)
    identities = np.stack([numbers[first], numbers[second]], axis=1) if known else None
    similarities, others = (np.einsum("pd,pd->p", vectors[first], vectors[second]) for vectors in models)
    scores = SortedScores.of(similarities, same, identities)
    drawn = bootstrap_sorted(scores, FARS, resamples, seed, max_bins=2048)
    tars = scores.strict_tar(np.array(FARS))
    sides = models[0][first], models[0][second], same
    accuracy = kfold_accuracy(*sides).accuracy
    compared = compare_auc(similarities, others, same, resamples, seed, identities=identities)
    estimates = [scores.auc, scores.eer, *tars, accuracy, compared.difference]
    intervals = [
        drawn.auc.interval(scores.auc),
        drawn.eer.interval(scores.eer),
        *(drawn.tar[column].interval(tar) for column, tar in enumerate(tars)),
        bootstrap_kfold(*sides, resamples=resamples, seed=seed, identities=identities).interval(accuracy),
        compared.interval,
    ]
    return estimates, [(interval.low, interval.high) for interval in intervals]


def coverage(design: Design, truth: list[float], repeats: int, resamples: int, known: bool = True) -> np.ndarray:
    """Share of repeats whose interval holds the truth, for each of MEASURES."""
    results = [measure(design, seed, resamples, known) for seed in range(repeats)]
    mean_accuracy = float(np.mean([estimates[4] for estimates, _ in results]))
    expected = np.array([*truth, mean_accuracy, 0.0])
    low, high = np.moveaxis(np.array([intervals for _, intervals in results]), 2, 0)
    return np.mean((low <= expected) & (expected <= high), axis=0)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=300)
    parser.add_argument("--designs", type=int, nargs="*", default=list(range(len(DESIGNS))))
    options = parser.parse_args()
    truth = population()
    print("population: " + ", ".join(f"{name} {value:.4f}" for name, value in zip(MEASURES, truth, strict=False)))
    print(f"| design, genuine + impostor pairs | intervals | {' | '.join(MEASURES)} |")
    print("|" + "---|" * (2 + len(MEASURES)), flush=True)
    for design in (DESIGNS[number] for number in options.designs):
        for known, label in ((True, "over identities"), (False, "pairs only")):
            start = time.perf_counter()
            shares = coverage(design, truth, options.repeats, options.resamples, known)
            cells = " | ".join(f"{share:.3f}" for share in shares)
            seconds = time.perf_counter() - start
            print(f"| {design.name}, {design.pairs:,} each | {label} | {cells} | <!-- {seconds:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
