"""Measurements a reader can rerun: each compares with the straightforward way in the same run."""
