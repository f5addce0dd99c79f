"""IJB-B and IJB-C (Maze et al. 2018): templates of several images, verified in pairs (1:1).

The 1:N protocol is in `ijb_identification`.

Shape legend: M images, T templates, P template pairs, D embedding size.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data import ImageSpec
from facelib.evaluation import (
    EvaluationOptions,
    evaluate_scores,
    score_templates,
    template_features,
)
from facelib.evaluation.arrays import FloatArray
from facelib.evaluation.protocols.base import EvaluationResult, EvaluationSet
from facelib.evaluation.protocols.faces import ImageFiles
from facelib.evaluation.protocols.registry import register_protocol
from facelib.sources import IJBMetadata
from facelib.sources.groups import joined_groups
from facelib.utils.arrays import l2_normalize


class IJBTemplates(EvaluationSet):
    """Faces of an IJB release and their pooling into templates, which both protocols share."""

    def __init__(
        self,
        name: str,
        path: str,
        subset: str = "",
        template: str = "arcface",
        size: int = 112,
        weighted: bool = False,
        unit: bool = False,
        images: str = "",
    ) -> None:
        self.name, self.weighted, self.unit = name, weighted, unit
        self.metadata = IJBMetadata(path, subset or None, images)
        if weighted and self.metadata.scores is None:
            raise ValueError(f"{name}: weighted=true needs the detector scores of *_name_5pts_score.txt in {path}")
        self.faces = ImageFiles(
            str(self.metadata.image_folder), self.metadata.paths, self.metadata.landmarks, template, size
        )
        self.image_spec = ImageSpec(template=template, size=size)
        self._open(path)

    @abc.abstractmethod
    def _open(self, path: str) -> None:
        """Read what else the protocol needs; a missing or damaged file is an error before anything is embedded."""

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        """Also the pooling, and insightface's name of it: N norm, D detector score, F flip (1 concat, 2 sum)."""
        found = super().rules(measures)
        flips = ("none", "concat", "sum").index(found["flip"])
        mode = f"N{1 - self.unit:d}D{self.weighted:d}F{flips}"
        return {**found, "unit": self.unit, "weighted": self.weighted, "mode": mode}

    def pool(self, embeddings: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Template features [T, D] and numbers [T] of image embeddings [M, D]."""
        features = l2_normalize(embeddings) if self.unit else embeddings
        weights = self.metadata.scores if self.weighted else None
        return template_features(features, self.metadata.templates, self.metadata.medias, weights)


@register_protocol("ijb")
class IJBVerification(IJBTemplates):
    """1:1 verification of template pairs: AUC, EER, TAR at FAR.

    Args:
        path: folder with `meta/` and `loose_crop/`.
        subset: "ijbb" or "ijbc", where the folder holds both.
        template, size: what the images are aligned to by their landmarks.
        weighted: multiply each image's embedding by the detector's score (insightface's mode D1).
        unit: L2-normalize each image's embedding before pooling (mode N0).
        images: folder of the images, see `IJBMetadata`.

    Raises:
        FileNotFoundError, ValueError: metadata that is missing, damaged, or lacks what an option needs.
    """

    def _open(self, path: str) -> None:
        self._first_image = dict(zip(self.metadata.templates[::-1].tolist(), range(len(self.faces))[::-1], strict=True))

    @property
    def identities(self) -> NDArray[np.int64]:
        """One identity per template; genuine template pairs join their templates."""
        numbers, rows = np.unique(self.metadata.templates, return_inverse=True)
        return self._template_identities(numbers)[rows]

    @property
    def pair_identities(self) -> NDArray[np.int64]:
        """Identity of each side of each template pair, [P, 2]."""
        numbers = np.unique(self.metadata.templates)
        identities = self._template_identities(numbers)
        sides = (self.metadata.first, self.metadata.second)
        return np.stack([identities[np.searchsorted(numbers, side)] for side in sides], axis=1)

    def _template_identities(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Identity of each template, numbers [T] ascending."""
        same = self.metadata.labels
        pairs = [np.searchsorted(numbers, side[same]) for side in (self.metadata.first, self.metadata.second)]
        return joined_groups(len(numbers), np.stack(pairs, axis=1))

    def pair_images(self, pair: int) -> tuple[int, int]:
        """The first image of each template."""
        sides = self.metadata.first[pair], self.metadata.second[pair]
        return self._first_image[int(sides[0])], self._first_image[int(sides[1])]

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        features, ids = self.pool(embeddings)
        scores = score_templates(features, ids, self.metadata.first, self.metadata.second)
        same = self.metadata.labels
        identities = self.pair_identities
        report = evaluate_scores(
            scores, same, measures.fars, measures.bootstrap, measures.seed, measures.rule, identities
        )
        return EvaluationResult(report, scores, same, identities)
