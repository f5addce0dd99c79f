"""What a set of faces is like: pose, light, expression, sharpness, repeated pictures, and how far its people differ."""

from facelib.inspection.identities import IdentityReport, inspect_identities
from facelib.inspection.measures import MEASURES, measure_faces, pose_from_landmarks
from facelib.inspection.repeats import Repeats, count_repeats
from facelib.inspection.report import SetReport, Spread, compare_table, summarize

__all__ = [
    "MEASURES",
    "IdentityReport",
    "Repeats",
    "SetReport",
    "Spread",
    "compare_table",
    "count_repeats",
    "inspect_identities",
    "measure_faces",
    "pose_from_landmarks",
    "summarize",
]
