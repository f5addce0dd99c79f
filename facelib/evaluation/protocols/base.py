"""The interface of a protocol: one class with faces, their image spec, and `measure`.

Shape legend: N faces, P pairs, D embedding size.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data import ImageSpec
from facelib.evaluation import EvaluationOptions, Report, SortedScores
from facelib.evaluation.protocols.faces import FaceImages
from facelib.sources.groups import joined_groups
from facelib.utils.flip import FlipRule, flip_rule


@dataclass(frozen=True)
class EvaluationResult:
    """One model on one set.

    Attributes:
        report: every number.
        similarities, issame: of the protocol's pairs, [P] each, for curves and histograms; None where it has no pairs.
        identities: identity of each side of each pair, integers [P, 2], which intervals resample; None: unknown.
        curves: scores of parts of the pairs by name, drawn in a picture of their own.
    """

    report: Report
    similarities: NDArray[Any] | None = None
    issame: NDArray[np.bool_] | None = None
    identities: NDArray[Any] | None = None
    curves: Mapping[str, SortedScores] = field(default_factory=dict)

    @cached_property
    def scores(self) -> SortedScores | None:
        """Genuine and impostor scores; None where the protocol has no pairs."""
        if self.similarities is None:
            return None
        return SortedScores.of(self.similarities, self.issame, self.identities)


class EvaluationSet(abc.ABC):
    """A set of faces and the rules it is judged by.

    A protocol is a subclass whose constructor takes (name, path, **options); the options are what a user may write in
    brackets, `name=protocol(option=value):path`. It sets the attributes and implements `measure`.

    Attributes:
        name: of the set, in tables and file names.
        faces: what has to be embedded, N faces.
        image_spec: what their pixels mean; a model made for others is refused.
        flip: what becomes of the embeddings of mirrored faces, an option of every set; None: as the settings say.
    """

    name: str
    faces: FaceImages
    image_spec: ImageSpec
    flip: FlipRule | bool | None = None

    @property
    def flip_rule(self) -> FlipRule:
        """The rule that `flip` names; `sum` where neither the set nor the settings say one."""
        return flip_rule("sum" if self.flip is None else self.flip)

    @abc.abstractmethod
    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        """Judge embeddings [N, D] of `faces`, in their order, not normalized.

        Raises:
            ValueError: embeddings that are not finite.
        """

    def pair_images(self, pair: int) -> tuple[int, int]:
        """Numbers of two faces that stand for pair `pair` in pictures of the worst ones."""
        raise NotImplementedError(f"{type(self).__name__} has no pairs")

    @property
    def identities(self) -> NDArray[np.int64] | None:
        """The person on each face, [N], -1 where that is not known; None: nothing is known. For embedding maps."""
        return None

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        """The rules that its numbers follow and that differ between publications, by name, for reports."""
        return {"flip": self.flip_rule, "far_rule": measures.rule}

    @classmethod
    def files(cls, path: str) -> list[str]:
        """Files or folders that must exist before `path` can be opened."""
        return [path]


class FacePairs(EvaluationSet):
    """Base of protocols whose pairs are pairs of faces.

    Attributes:
        first, second: numbers of the faces of each pair, [P].
        issame: whether a pair is genuine, [P].
        known_identities: identity of each face, integers [N], where the set names them; None: only pairs are known.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    issame: NDArray[np.bool_]
    known_identities: NDArray[np.int64] | None = None

    @property
    def identities(self) -> NDArray[np.int64]:
        """Identities, known or as far as genuine pairs tell."""
        if self.known_identities is not None:
            return self.known_identities
        return identities_of_pairs(self.first, self.second, self.issame, len(self.faces))

    @property
    def pair_identities(self) -> NDArray[np.int64] | None:
        """Identity of each side of each pair, [P, 2]; None: unknown."""
        if self.known_identities is None:
            return None
        return np.stack([self.known_identities[side] for side in (self.first, self.second)], axis=1)

    def pair_images(self, pair: int) -> tuple[int, int]:
        """The pair's own faces."""
        return int(self.first[pair]), int(self.second[pair])


def identities_of_pairs(
    first: NDArray[np.integer[Any]], second: NDArray[np.integer[Any]], issame: NDArray[np.bool_], count: int
) -> NDArray[np.int64]:
    """The person on each of `count` faces as far as genuine pairs tell: faces that they connect are one person's.

    Returns:
        [count], numbers from 0; -1 for faces without a genuine pair.
    """
    pairs = np.stack([np.asarray(side)[issame] for side in (first, second)], axis=1)
    people = joined_groups(count, pairs)
    people[np.bincount(people, minlength=count)[people] == 1] = -1
    return people
