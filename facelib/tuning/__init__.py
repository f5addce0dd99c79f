"""Hyperparameter sweeps without Ray: search space, search, trial store, statistics, report."""
