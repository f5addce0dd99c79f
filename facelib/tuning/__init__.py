"""Sweeps without Ray: the search space, what to try next, the trials on disk, statistics, pictures, the report."""
