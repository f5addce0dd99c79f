"""Evaluation rules of publications: what their tables were made with, where it is not this project's default.

| | UNPG | USynthFace | insightface (arcface_torch) |
|---|---|---|---|
| `.bin` sets, also in groups | flip concat, best threshold on the same pairs | flip sum, 10-fold | flip sum, 10-fold |
| K-FACE | flip concat | | |
| IJB 1:1 | N1D0F0: no flip | | N1D1F2: flip sum, detector score |
| IJB 1:N | | | N1D1F2, one gallery of all subjects |
| TAR at FAR | nearest FAR | | nearest FAR |
| pixels | ImageNet's mean and deviation | [-1, 1] | [-1, 1] |

From the published code: UNPG `recognition/tests`, USynthFace `utils/verification.py`, insightface `arcface_torch/eval`,
`arcface_torch/eval_ijbc.py` and `_evaluation_/ijb/ijb_1n.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from facelib.evaluation.roc import TarRule
from facelib.evaluation.verification import AccuracyRule


@dataclass(frozen=True)
class PublishedRules:
    """The rules of one publication.

    Attributes:
        normalization: of the pixels its networks were trained on, see `facelib.models.NORMALIZATIONS`.
        accuracy_rule, far_rule: see `EvaluationOptions`; None: no rule.
        protocols: options of the sets, by protocol; those that are missing have no published results.
    """

    normalization: str
    accuracy_rule: AccuracyRule | None
    far_rule: TarRule | None
    protocols: Mapping[str, Mapping[str, Any]]


PUBLISHED: Mapping[str, PublishedRules] = {
    "unpg": PublishedRules(
        "imagenet",
        "best_threshold",
        "nearest",
        {
            "pairs": {"flip": "concat"},
            "groups": {"flip": "concat"},
            **{f"kface-q{level}": {"flip": "concat"} for level in (1, 2, 3, 4)},
            "ijb": {"flip": "none", "unit": False, "weighted": False},
        },
    ),
    "usynthface": PublishedRules("symmetric", "kfold", None, {"pairs": {"flip": "sum"}, "groups": {"flip": "sum"}}),
    "insightface": PublishedRules(
        "symmetric",
        "kfold",
        "nearest",
        {
            "pairs": {"flip": "sum"},
            "groups": {"flip": "sum"},
            "ijb": {"flip": "sum", "unit": False, "weighted": True},
            "ijb-1n": {"flip": "sum", "unit": False, "weighted": True, "galleries": "merged"},
        },
    ),
}
