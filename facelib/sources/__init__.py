"""What others made: image sets, verification sets, training records and benchmarks in their published formats."""

from facelib.sources.bins import BinError, read_bin, write_bin
from facelib.sources.ijb import IJBError, IJBMetadata
from facelib.sources.kface import KFace, KFaceError, read_kface_pairs
from facelib.sources.record_file import RecordFile, RecordIOError
from facelib.sources.recordio import RecordIOReader, write_recordio
from facelib.sources.source import (
    Entry,
    FaceSource,
    IndexBuilder,
    PairList,
    Skipped,
    SourceError,
    SourceIndex,
    UnreadableImageError,
    available_sources,
    build_source,
    register_source,
)

__all__ = [
    "BinError",
    "Entry",
    "FaceSource",
    "IJBError",
    "IJBMetadata",
    "IndexBuilder",
    "KFace",
    "KFaceError",
    "PairList",
    "RecordFile",
    "RecordIOError",
    "RecordIOReader",
    "Skipped",
    "SourceError",
    "SourceIndex",
    "UnreadableImageError",
    "available_sources",
    "build_source",
    "read_bin",
    "read_kface_pairs",
    "register_source",
    "write_bin",
    "write_recordio",
]
