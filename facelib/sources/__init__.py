"""What others made: verification sets, training records and benchmarks in their published formats."""

from facelib.sources.bins import BinError, read_bin, write_bin
from facelib.sources.ijb import IJBError, IJBMetadata
from facelib.sources.kface import KFace, KFaceError, read_kface_pairs
from facelib.sources.recordio import RecordIOError, RecordIOReader, write_recordio

__all__ = [
    "BinError",
    "IJBError",
    "IJBMetadata",
    "KFace",
    "KFaceError",
    "RecordIOError",
    "RecordIOReader",
    "read_bin",
    "read_kface_pairs",
    "write_bin",
    "write_recordio",
]
