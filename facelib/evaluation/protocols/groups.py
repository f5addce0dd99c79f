"""Groups of people judged at one threshold, as RFW (Racial Faces in the Wild, Wang et al. 2019) does.

A folder holds one `.bin` file, or one face dataset in a subfolder, for each group; the file's name is the group's.

Shape legend: N faces, D embedding size.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pyarrow.fs as pafs
from numpy.typing import NDArray

from facelib.data import MANIFEST_NAME, Folder
from facelib.data.listing import is_hidden
from facelib.evaluation import EvaluationOptions, SortedScores, VerificationReport, evaluate_groups
from facelib.evaluation.protocols.base import EvaluationResult, EvaluationSet
from facelib.evaluation.protocols.faces import EncodedImages
from facelib.evaluation.protocols.pairs import PairsProtocol
from facelib.evaluation.protocols.registry import register_protocol
from facelib.sources.bins import is_bin


@register_protocol("groups")
class GroupsProtocol(EvaluationSet):
    """Every group's own verification report, and the error rates of all groups at common thresholds.

    Args:
        path: folder of the groups.
        pairs, seed, template: see `PairsProtocol`.

    Raises:
        FileNotFoundError, ValueError: fewer than two groups, or one that cannot be opened.
    """

    def __init__(self, name: str, path: str, pairs: int = 3000, seed: int = 0, template: str = "arcface") -> None:
        members = _members(path)
        if len(members) < 2:
            raise ValueError(
                f"{name}: {path} holds {', '.join(members) or 'no group'}; groups need two or more .bin files "
                "or face datasets in one folder"
            )
        self.name = name
        self.groups = {group: PairsProtocol(group, file, pairs, seed, template) for group, file in members.items()}
        first, *others = self.groups.values()
        self.image_spec = first.image_spec
        for other in others:
            first.image_spec.require(other.image_spec, f"group {first.name}", f"group {other.name}")
        images = [data for group in self.groups.values() for data in cast(EncodedImages, group.faces).images]
        self.faces = EncodedImages(images, name)
        self._starts = np.cumsum([0, *(len(group.faces) for group in self.groups.values())]).tolist()
        self._pair_starts = np.cumsum([0, *(len(group.issame) for group in self.groups.values())]).tolist()

    @property
    def identities(self) -> NDArray[np.int64]:
        """People of different groups have different numbers."""
        parts, used = [], 0
        for group in self.groups.values():
            people = group.identities
            parts.append(np.where(people < 0, -1, people + used))
            used += len(people)
        return np.concatenate(parts)

    def pair_images(self, pair: int) -> tuple[int, int]:
        number = int(np.searchsorted(self._pair_starts, pair, side="right")) - 1
        first, second = list(self.groups.values())[number].pair_images(pair - self._pair_starts[number])
        return first + self._starts[number], second + self._starts[number]

    def rules(self, measures: EvaluationOptions) -> dict[str, Any]:
        return {**super().rules(measures), "accuracy_rule": measures.accuracy_rule}

    def measure(self, embeddings: NDArray[np.float32], measures: EvaluationOptions) -> EvaluationResult:
        parts = {
            name: group.measure(embeddings[begin : begin + len(group.faces)], measures)
            for (name, group), begin in zip(self.groups.items(), self._starts, strict=False)
        }
        scored = {name: cast(SortedScores, part.scores) for name, part in parts.items()}
        reports = {name: cast(VerificationReport, part.report) for name, part in parts.items()}
        report = evaluate_groups({name: (reports[name], scored[name]) for name in parts}, measures)
        pairs: list[tuple[Any, Any]] = [(part.similarities, part.issame) for part in parts.values()]
        similarities, issame = (np.concatenate(column) for column in zip(*pairs, strict=True))
        identities = self.pair_identities
        return EvaluationResult(report, similarities, issame, identities, scored)

    @property
    def pair_identities(self) -> NDArray[np.int64] | None:
        """Identity of each side of each pair, [P, 2]; None where those of any group are unknown."""
        parts, used = [], 0
        for group in self.groups.values():
            identities = group.pair_identities
            if identities is None:
                return None
            parts.append(identities + used)
            used += int(identities.max()) + 1
        return np.concatenate(parts)


def _members(path: str) -> dict[str, str]:
    """Files and datasets of a folder by group name, names ascending; hidden files are none.

    Raises:
        ValueError: two groups of one name.
    """
    folder = Folder(path)
    infos = folder.fs.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    found: dict[str, str] = {}
    for info in sorted(infos, key=lambda i: i.base_name):
        name = info.base_name
        uri = f"{folder.uri}/{name}"
        if is_hidden(name):
            continue
        if info.type == pafs.FileType.Directory:
            if not Folder(uri).exists(MANIFEST_NAME):
                continue
        elif is_bin(name):
            name = name[: -len(".bin")]
        else:
            continue
        if name in found:
            raise ValueError(f"{path}: {found[name]} and {uri} are both group {name}; rename one")
        found[name] = uri
    return found
