"""Small helpers that belong to no single stage: collectives, devices, processes, component registry."""
