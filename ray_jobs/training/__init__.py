"""Training on Ray: engine (driver), worker (every DDP rank), batches, methods, checkpoints."""
