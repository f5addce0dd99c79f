"""Pairs of faces: LFW, AgeDB-30, CFP-FP, CALFW, CPLFW (`.bin` files) and pairs drawn from a face dataset.

Evaluated by 10-fold accuracy, AUC, EER and TAR at FAR.

Shape legend: N faces, P pairs, D embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation import EvaluationOptions, evaluate_pairs
from facelib.evaluation.protocols.base import EvaluationResult, FacePairs
from facelib.evaluation.protocols.faces import EncodedImages
from facelib.evaluation.protocols.registry import register_protocol
from facelib.sources.bins import bin_paths
from facelib.sources.pair_sets import load_pair_set
from facelib.utils.arrays import l2_normalize

FOLDS = 10


@register_protocol("pairs")
class PairsProtocol(FacePairs):
    """Verification of pairs, each judged by its two faces. A picture that stands in several pairs is embedded once.

    Args:
        path: `a.bin`, several as `a.bin+b.bin`, or a face dataset.
        pairs: genuine, and as many impostor, pairs drawn from a face dataset.
        seed: of that drawing.
        template: what the faces of a `.bin` are aligned to; the file does not say it. `any`: not compared with that of
            a model, as USynthFace evaluates on `arcface` what it trains on `arcface-96`.
        names: LFW pair file (`pairs.txt`) that a `.bin` was made from, for intervals over its identities.

    Raises:
        FileNotFoundError, ValueError: missing or damaged, or fewer pairs than folds.
    """

    def __init__(
        self, name: str, path: str, pairs: int = 3000, seed: int = 0, template: str = "arcface", names: str = ""
    ) -> None:
        found = load_pair_set(path, pairs, seed, template, name, names)
        if len(found.issame) < FOLDS:
            raise ValueError(
                f"{name} has {len(found.issame)} pairs, k-fold accuracy needs at least {FOLDS}; for held-out faces, "
                "raise generate.heldout_identities or generate.images_per_identity"
            )
        number: dict[bytes, int] = {}
        place = np.array([number.setdefault(data, len(number)) for data in found.images])
        self.name, self.image_spec = name, found.image_spec
        self.faces = EncodedImages(list(number), name)
        self.first, self.second, self.issame = place[found.first], place[found.second], found.issame
        if found.identities is not None:
            self.known_identities = found.identities[np.unique(place, return_index=True)[1]]

    @classmethod
    def files(cls, path: str) -> list[str]:
        return bin_paths(path)

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        return {**super().rules(measures), "accuracy_rule": measures.accuracy_rule}

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        first, second = embeddings[self.first], embeddings[self.second]
        identities = self.pair_identities
        report = evaluate_pairs(
            first,
            second,
            self.issame,
            measures.fars,
            measures.bootstrap,
            measures.seed,
            FOLDS,
            measures.rule,
            identities,
            measures.accuracy_rule,
        )
        similarities = pair_similarities(embeddings, self.first, self.second)
        return EvaluationResult(report, similarities, self.issame, identities)


def pair_similarities(
    embeddings: NDArray[np.float32], first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[Any]:
    """Cosines [P] of pairs of embeddings [N, D]."""
    unit = l2_normalize(embeddings.astype(np.float64))
    return np.einsum("pd,pd->p", unit[first], unit[second])
