"""IJB-B and IJB-C (Maze et al. 2018): templates of several images, verified in pairs and searched in galleries.

Shape legend: M images, T templates, P template pairs, D embedding size.
"""

from __future__ import annotations

import abc
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data import Folder, ImageSpec
from facelib.evaluation import (
    EvaluationOptions,
    evaluate_identification,
    evaluate_scores,
    score_templates,
    search_gallery,
    template_features,
)
from facelib.evaluation.arrays import FloatArray
from facelib.evaluation.protocols.base import EvaluationResult, EvaluationSet, identities_of_pairs
from facelib.evaluation.protocols.faces import ImageFiles
from facelib.evaluation.protocols.registry import register_protocol
from facelib.sources import IJBMetadata
from facelib.utils.arrays import l2_normalize

CROPS = "loose_crop"


class _Templates(EvaluationSet):
    """Faces of an IJB release and their pooling into templates; both protocols share it."""

    def __init__(
        self,
        name: str,
        path: str,
        subset: str = "",
        template: str = "arcface",
        size: int = 112,
        flip: bool = True,
        weighted: bool = False,
        unit: bool = False,
    ) -> None:
        self.name, self.flip, self.weighted, self.unit = name, flip, weighted, unit
        self.metadata = IJBMetadata(path, subset or None)
        if weighted and self.metadata.scores is None:
            raise ValueError(f"{name}: weighted=true needs the detector scores of *_name_5pts_score.txt in {path}")
        crops = f"{path.rstrip('/')}/{CROPS}"
        self.faces = ImageFiles(
            crops if Folder(crops).names() else path, self.metadata.names, self.metadata.landmarks, template, size
        )
        self.image_spec = ImageSpec(template=template, size=size)
        self._open(path)

    @abc.abstractmethod
    def _open(self, path: str) -> None:
        """Read what the protocol needs besides; what is missing or damaged is an error before anything is embedded."""

    def pool(self, embeddings: FloatArray) -> tuple[FloatArray, NDArray[np.int64]]:
        """Template features [T, D] and numbers [T] of image embeddings [M, D]."""
        features = l2_normalize(embeddings) if self.unit else embeddings
        weights = self.metadata.scores if self.weighted else None
        return template_features(features, self.metadata.templates, self.metadata.medias, weights)


@register_protocol("ijb")
class IJBVerification(_Templates):
    """1:1 verification of template pairs: AUC, EER, TAR at FAR.

    Args:
        path: folder with `meta/` and `loose_crop/`.
        subset: "ijbb" or "ijbc", where the folder holds both.
        template, size: what the pictures are aligned to by their landmarks.
        flip: add the embedding of the mirrored face.
        weighted: multiply each image's embedding by the detector's score.
        unit: bring each image's embedding to length one before pooling, so that its norm does not count.

    Raises:
        FileNotFoundError, ValueError: metadata that is missing, damaged, or lacks what an option needs.
    """

    def _open(self, path: str) -> None:
        self._first_image = dict(zip(self.metadata.templates[::-1].tolist(), range(len(self.faces))[::-1], strict=True))

    @property
    def identities(self) -> NDArray[np.int64]:
        """People of a template are those of its images; genuine template pairs join templates."""
        numbers, rows = np.unique(self.metadata.templates, return_inverse=True)
        same = self.metadata.labels
        pairs = [np.searchsorted(numbers, side[same]) for side in (self.metadata.first, self.metadata.second)]
        people = identities_of_pairs(pairs[0], pairs[1], np.ones(len(pairs[0]), bool), len(numbers))
        lonely = people < 0
        people[lonely] = len(numbers) + np.flatnonzero(lonely)
        return people[rows]

    def pair_images(self, pair: int) -> tuple[int, int]:
        """The first image of each template."""
        sides = self.metadata.first[pair], self.metadata.second[pair]
        return self._first_image[int(sides[0])], self._first_image[int(sides[1])]

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        features, ids = self.pool(embeddings)
        scores = score_templates(features, ids, self.metadata.first, self.metadata.second)
        same = self.metadata.labels
        report = evaluate_scores(scores, same, measures.fars, measures.bootstrap, measures.seed, measures.rule)
        return EvaluationResult(report, scores, same)


@register_protocol("ijb-1n")
class IJBIdentification(_Templates):
    """1:N identification: rank-k rates and TPIR at FPIR, averaged over the galleries.

    Beside the files of 1:1 the folder `meta` holds `*_1N_gallery_*.csv` (one or two galleries) and `*_1N_probe_*.csv`,
    comma-separated with a line of headings, whose first two columns are template and subject.

    Args: see `IJBVerification`.
    """

    def _open(self, path: str) -> None:
        place = Folder(f"{path.rstrip('/')}/meta")
        place = place if place.names() else Folder(path)
        self.galleries = self._read_lists(place, "gallery")
        templates, subjects = zip(*self._read_lists(place, "probe"), strict=True)
        self.probes = np.concatenate(templates), np.concatenate(subjects)

    @property
    def identities(self) -> NDArray[np.int64]:
        subject_of: dict[int, int] = {}
        for templates, subjects in [*self.galleries, self.probes]:
            subject_of.update(zip(templates.tolist(), subjects.tolist(), strict=True))
        return np.array([subject_of.get(t, -1) for t in self.metadata.templates.tolist()])

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        features, ids = self.pool(embeddings)

        def rows(templates: NDArray[np.int64]) -> Any:
            return features[np.searchsorted(ids, templates)]

        searches = [
            search_gallery(rows(templates), subjects, rows(self.probes[0]), self.probes[1])
            for templates, subjects in self.galleries
        ]
        return EvaluationResult(evaluate_identification(searches, measures))

    def _read_lists(self, place: Folder, kind: str) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Template and subject numbers of every list of a kind, each template once."""
        names = [n for n in place.names() if n.startswith(f"{self.metadata.subset}_1N_{kind}") and n.endswith(".csv")]
        if not names:
            raise FileNotFoundError(
                f"{place.uri}: no {self.metadata.subset}_1N_{kind}*.csv; 1:N needs the lists of galleries and probes"
            )
        known = np.unique(self.metadata.templates)
        lists = []
        for name in names:
            lines = place.read(name).decode("utf-8", errors="replace").splitlines()[1:]
            pairs: dict[int, int] = {}
            for number, line in enumerate(filter(str.strip, lines), start=2):
                try:
                    template, subject = (int(field) for field in line.split(",")[:2])
                except ValueError:
                    raise ValueError(
                        f"{place.uri}/{name}: line {number} is {line[:80]!r}; expected: template,subject,..."
                    ) from None
                pairs[template] = subject
            templates = np.array(list(pairs), np.int64)
            missing = templates[~np.isin(templates, known)]
            if len(missing) or not len(templates):
                what = f"template {missing[0]} has no image" if len(missing) else "holds no template"
                raise ValueError(f"{place.uri}/{name}: {what}")
            lists.append((templates, np.array(list(pairs.values()), np.int64)))
        return lists
