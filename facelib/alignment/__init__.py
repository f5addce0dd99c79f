"""Alignment: images to 112x112 crops. Detectors (RetinaFace, MTCNN), templates, similarity transform and warp."""

from facelib.alignment.aligner import (
    AlignedFace,
    Aligner,
    Rejection,
    RejectionReason,
    Unaligned,
    count_rejections,
    select_face,
)
from facelib.alignment.detector import Detections, FaceDetector, build_detector, register_detector
from facelib.alignment.similarity import TEMPLATES, align_face, similarity_transform

__all__ = [
    "TEMPLATES",
    "AlignedFace",
    "Aligner",
    "Detections",
    "FaceDetector",
    "Rejection",
    "RejectionReason",
    "Unaligned",
    "align_face",
    "build_detector",
    "count_rejections",
    "register_detector",
    "select_face",
    "similarity_transform",
]
