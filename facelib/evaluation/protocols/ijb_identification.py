"""1:N identification on IJB-B and IJB-C (Maze et al. 2018): probe templates searched in galleries.

Shape legend: M images, T templates, D embedding size.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.data import Folder
from facelib.evaluation import EvaluationOptions, evaluate_identification, search_gallery
from facelib.evaluation.protocols.base import EvaluationResult
from facelib.evaluation.protocols.ijb import IJBTemplates
from facelib.evaluation.protocols.registry import register_protocol


@register_protocol("ijb-1n")
class IJBIdentification(IJBTemplates):
    """1:N identification: rank-k rates and TPIR at FPIR, averaged over the galleries.

    Beside the files of 1:1 the folder `meta` holds `*_1N_gallery_*.csv` (one or two galleries) and `*_1N_probe_*.csv`,
    comma-separated with a line of headings, whose first two columns are template and subject.

    Args: see `IJBVerification`.
    """

    def _open(self, path: str) -> None:
        folder = Folder(f"{path.rstrip('/')}/meta")
        folder = folder if folder.names() else Folder(path)
        self.galleries = self._read_lists(folder, "gallery")
        templates, subjects = zip(*self._read_lists(folder, "probe"), strict=True)
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

    def _read_lists(self, folder: Folder, kind: str) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Template and subject numbers of every list of a kind, each template once."""
        names = [n for n in folder.names() if n.startswith(f"{self.metadata.subset}_1N_{kind}") and n.endswith(".csv")]
        if not names:
            raise FileNotFoundError(
                f"{folder.uri}: no {self.metadata.subset}_1N_{kind}*.csv; 1:N needs the lists of galleries and probes"
            )
        known = np.unique(self.metadata.templates)
        lists = []
        for name in names:
            lines = folder.read(name).decode("utf-8", errors="replace").splitlines()[1:]
            pairs: dict[int, int] = {}
            for number, line in enumerate(filter(str.strip, lines), start=2):
                try:
                    template, subject = (int(field) for field in line.split(",")[:2])
                except ValueError:
                    raise ValueError(
                        f"{folder.uri}/{name}: line {number} is {line[:80]!r}; expected: template,subject,..."
                    ) from None
                pairs[template] = subject
            templates = np.array(list(pairs), np.int64)
            missing = templates[~np.isin(templates, known)]
            if len(missing) or not len(templates):
                what = f"template {missing[0]} has no image" if len(missing) else "holds no template"
                raise ValueError(f"{folder.uri}/{name}: {what}")
            lists.append((templates, np.array(list(pairs.values()), np.int64)))
        return lists
