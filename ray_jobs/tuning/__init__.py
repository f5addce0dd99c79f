"""Sweeps on Ray Tune: what is tried and known, and how trials run."""
