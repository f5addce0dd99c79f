"""Evaluation sets by protocol: what faces to embed, and what embeddings of them are worth.

`open_set("ijbc=ijb:/data/IJBC")` opens one; `register_protocol` adds a kind. Functions of embeddings alone are in
`facelib.evaluation`.
"""

from facelib.evaluation.protocols.base import EvaluationResult, EvaluationSet, identities_of_pairs
from facelib.evaluation.protocols.faces import EncodedImages, FaceImages, ImageFiles
from facelib.evaluation.protocols.registry import SetSpec, open_set, parse_spec, register_protocol

__all__ = [
    "EncodedImages",
    "EvaluationResult",
    "EvaluationSet",
    "FaceImages",
    "ImageFiles",
    "SetSpec",
    "identities_of_pairs",
    "open_set",
    "parse_spec",
    "register_protocol",
]
