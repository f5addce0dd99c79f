"""What others made: verification sets, training records and benchmarks in their published formats."""

from facelib.sources.bins import BinError, read_bin, write_bin

__all__ = ["BinError", "read_bin", "write_bin"]
