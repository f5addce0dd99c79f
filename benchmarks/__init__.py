"""Reproducible measurements; each compares with a straightforward baseline in the same run."""
