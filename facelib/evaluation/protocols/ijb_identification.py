"""1:N identification on IJB-B and IJB-C (Maze et al. 2018): probe templates searched in galleries.

Shape legend: M images, T templates, D embedding size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facelib.evaluation import EvaluationOptions, evaluate_identification, search_gallery
from facelib.evaluation.protocols.base import EvaluationResult
from facelib.evaluation.protocols.ijb import IJBTemplates
from facelib.evaluation.protocols.registry import register_protocol
from facelib.utils.text_files import read_lines

# Kinds of probes, and how the names of their lists end.
PROBES = {"mixed": ("mixed",), "image": ("image", "images", "img", "still", "stills"), "video": ("video", "videos")}


@register_protocol("ijb-1n")
class IJBIdentification(IJBTemplates):
    """1:N identification: rank-k rates and TPIR at FPIR, averaged over the galleries.

    Beside the files of 1:1 the folder `meta` holds `*_1N_gallery_*.csv` (one or two galleries) and `*_1N_probe_*.csv`,
    comma-separated with a line of headings, whose first two columns are template and subject.

    Args:
        probes: which list of probes is searched: "mixed" (images and videos, the published protocol), "image" or
            "video"; empty: the only one there. Lists are never merged: they share templates.

        galleries: "separate": rates of each gallery, averaged, as the protocol defines; "merged": one gallery of all
            subjects, as insightface's script searches it. All probes then have a mate, so that FPIR is not defined.

    The others are those of `IJBVerification`.

    Raises:
        FileNotFoundError, ValueError: a list that is missing or damaged, or several lists of probes to choose from.
    """

    def __init__(self, name: str, path: str, probes: str = "", galleries: str = "separate", **options: Any) -> None:
        if galleries not in ("separate", "merged"):
            raise ValueError(f"{name}: galleries={galleries}: choose separate or merged")
        self.merged = galleries == "merged"
        if probes and probes not in PROBES:
            raise ValueError(f"{name}: probes={probes}: choose one of {', '.join(PROBES)}")
        self.probe_kind = probes
        super().__init__(name, path, **options)

    def _open(self, path: str) -> None:
        folder = Path(path, "meta")
        folder = folder if folder.is_dir() else Path(path)
        known = np.unique(self.metadata.templates)
        self.galleries = [_read_list(file, known) for file in self._lists(folder, "gallery")]
        found = self._lists(folder, "probe")
        if self.probe_kind:
            endings = PROBES[self.probe_kind]
            chosen = [file for file in found if file.stem.lower().rpartition("_")[2] in endings]
            if not chosen:
                names = ", ".join(file.name for file in found)
                raise FileNotFoundError(f"{folder}: no list of {self.probe_kind} probes; there are {names}")
            found = chosen
        if len(found) > 1:
            names = ", ".join(file.name for file in found)
            raise ValueError(
                f"{folder}: several lists of probes, {names}: choose one with probes={', probes='.join(PROBES)}"
            )
        self.probes = _read_list(found[0], known)

    @property
    def identities(self) -> NDArray[np.int64]:
        subject_of: dict[int, int] = {}
        for templates, subjects in [*self.galleries, self.probes]:
            subject_of.update(zip(templates.tolist(), subjects.tolist(), strict=True))
        return np.array([subject_of.get(t, -1) for t in self.metadata.templates.tolist()])

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        found = super().rules(measures)
        del found["far_rule"]  # TPIR at FPIR is strict always.
        return {**found, "galleries": "merged" if self.merged else "separate"}

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        features, ids = self.pool(embeddings)

        def rows(templates: NDArray[np.int64]) -> Any:
            return features[np.searchsorted(ids, templates)]

        searches = [
            search_gallery(rows(templates), subjects, rows(self.probes[0]), self.probes[1])
            for templates, subjects in (self._merged_galleries() if self.merged else self.galleries)
        ]
        return EvaluationResult(evaluate_identification(searches, measures))

    def _merged_galleries(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """One gallery of all templates and subjects."""
        templates, subjects = (np.concatenate(column) for column in zip(*self.galleries, strict=True))
        return [(templates, subjects)]

    def _lists(self, folder: Path, kind: str) -> list[Path]:
        """The lists of a kind, "gallery" or "probe"."""
        pattern = f"{self.metadata.subset}_1N_{kind}*.csv"
        found = sorted(folder.glob(pattern))
        if not found:
            raise FileNotFoundError(f"{folder}: no {pattern}; 1:N needs the lists of galleries and probes")
        return found


def _read_list(file: Path, known: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Template and subject numbers of a list, each template once, all of them among `known`.

    Raises:
        ValueError: names file and line.
    """
    lines: dict[int, tuple[int, int]] = {}  # subject and line number by template
    for row, (number, line) in enumerate(read_lines(file, escape=True)):
        try:
            template, subject = (int(field) for field in line.split(",")[:2])
        except ValueError:
            if row == 0:
                continue
            raise ValueError(f"{file}: line {number} is {line[:80]!r}; expected: template,subject,...") from None
        if row == 0:
            raise ValueError(
                f"{file}: line {number} is {line[:80]!r}, expected headings, such as TEMPLATE_ID,SUBJECT_ID,FILENAME: "
                "add the line that is missing"
            )
        first_subject, first_line = lines.setdefault(template, (subject, number))
        if subject != first_subject:
            raise ValueError(
                f"{file}: line {number} says that template {template} is of subject {subject}, line {first_line} that "
                f"it is of {first_subject}"
            )
    templates = np.array(list(lines), np.int64)
    missing = templates[~np.isin(templates, known)]
    if len(missing) or not len(templates):
        what = (
            f"line {lines[int(missing[0])][1]}: template {missing[0]} has no image" if len(missing) else "no template"
        )
        raise ValueError(f"{file}: {what}")
    return templates, np.array([subject for subject, _ in lines.values()], np.int64)
