"""What every job shares: cluster and MLflow session, checks before the start, progress, monitoring."""
