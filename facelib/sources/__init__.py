"""What others made: verification sets, training records and benchmarks in their published formats."""

from facelib.sources.bins import BinError, read_bin, write_bin
from facelib.sources.ijb import IJBError, IJBMetadata
from facelib.sources.recordio import RecordIOError, RecordIOReader, write_recordio

__all__ = [
    "BinError",
    "IJBError",
    "IJBMetadata",
    "RecordIOError",
    "RecordIOReader",
    "read_bin",
    "write_bin",
    "write_recordio",
]
