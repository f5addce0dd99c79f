"""Hyperparameter sweeps on Ray Tune: the sweep's decisions, and Tune's classes that connect it to Tune."""
