"""K-FACE Q1 to Q4 (Choi et al. 2021): verification of 30 held-out people under growing variance of pose, expression,
light and accessory.

Pair lists are `kface.Q1.txt` to `kface.Q4.txt`, lines "path path label". Pictures are crops already, or originals that
are aligned here: cameras are fixed, so the landmarks of each identity and pose are detected once, on the plain picture.

Shape legend: N faces, P pairs, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.alignment import build_detector, select_face
from facelib.alignment.aligner import SelectionRule
from facelib.data import Folder, ImageSpec, decode_image
from facelib.evaluation import EvaluationOptions, SortedScores, evaluate_scores, with_best_accuracy
from facelib.evaluation.protocols.base import EvaluationResult, FacePairs
from facelib.evaluation.protocols.faces import ImageFiles
from facelib.evaluation.protocols.pairs import pair_similarities
from facelib.evaluation.protocols.registry import register_protocol
from facelib.sources import read_kface_pairs
from facelib.sources.kface import landmark_picture

DETECT_BATCH = 32


@register_protocol("kface-q1")
class KFaceQ1(FacePairs):
    """Pairs of the list Q1.

    The lists have no folds, so there is no k-fold accuracy; by the rule "best_threshold" there is one.

    Args:
        path: folder of the identities' folders; it holds the list too, unless `pair_list` names it.
        pair_list: path of the list.
        template, size: what the faces are (or will be) aligned to; published crops have a padding of 0.25.
        detector: finds the landmarks of pictures that are no crops yet.
        min_score, selection: which of several faces is taken, see `Aligner`; UNPG's are 0.9 and highest_score.

    Raises:
        FileNotFoundError, ValueError: a list or picture that is missing or damaged, no face in a picture.
    """

    level = 1

    def __init__(
        self,
        name: str,
        path: str,
        pair_list: str = "",
        template: str = "arcface-padded",
        size: int = 112,
        detector: str = "retinaface",
        min_score: float = 0.0,
        selection: SelectionRule = "largest_central",
    ) -> None:
        first, second, self.issame = read_kface_pairs(pair_list or Path(path) / f"kface.Q{self.level}.txt")
        names, place = np.unique(first + second, return_inverse=True)
        self.name, self.image_spec = name, ImageSpec(template=template, size=size)
        self.first, self.second = place[: len(first)], place[len(first) :]
        paths = names.tolist()
        self.known_identities = np.unique([path.split("/")[0] for path in paths], return_inverse=True)[1]
        landmarks = None
        if not _is_crop(path, paths[0], size):
            landmarks = _landmarks(path, paths, detector, float(min_score), selection)
        self.faces = ImageFiles(path, paths, landmarks, template, size)

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        similarities = pair_similarities(embeddings, self.first, self.second)
        identities = self.pair_identities
        report = evaluate_scores(
            similarities, self.issame, measures.fars, measures.bootstrap, measures.seed, measures.rule, identities
        )
        result = EvaluationResult(report, similarities, self.issame, identities)
        if measures.accuracy_rule != "best_threshold":
            return result
        scores = SortedScores.of(similarities, self.issame, identities)
        return replace(result, report=with_best_accuracy(report, scores, measures.bootstrap, measures.seed))

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        best = {"accuracy_rule": measures.accuracy_rule} if measures.accuracy_rule == "best_threshold" else {}
        return {**super().rules(measures), **best}


@register_protocol("kface-q2")
class KFaceQ2(KFaceQ1):
    """Pairs of the list Q2."""

    level = 2


@register_protocol("kface-q3")
class KFaceQ3(KFaceQ1):
    """Pairs of the list Q3."""

    level = 3


@register_protocol("kface-q4")
class KFaceQ4(KFaceQ1):
    """Pairs of the list Q4."""

    level = 4


def _is_crop(path: str, name: str, size: int) -> bool:
    return decode_image(Folder(path).read(name)).shape == (size, size, 3)


def _landmarks(
    path: str, names: Sequence[str], detector: str, min_score: float, selection: SelectionRule
) -> NDArray[np.float32]:
    """Landmarks [N, 5, 2] of pictures, from the plain picture of the same identity and pose."""
    finder, folder = build_detector(detector), Folder(path)
    plain, place = np.unique([landmark_picture(name) for name in names], return_inverse=True)
    found = []
    for begin in range(0, len(plain), DETECT_BATCH):
        chunk = plain[begin : begin + DETECT_BATCH].tolist()
        pictures = [decode_image(folder.read(name)) for name in chunk]
        for name, picture, detections in zip(chunk, pictures, finder.detect(pictures), strict=True):
            faces = detections.select(detections.scores >= min_score)
            index = select_face(faces, picture.shape, selection)
            if index is None:
                raise ValueError(f"{path}/{name}: the detector found no face; all pictures of that pose depend on it")
            found.append(faces.landmarks[index])
    return np.stack(found)[place]
