"""Hyperparameter sweeps without Ray: search space, search, early stopping, trial store, statistics, report."""
