"""What runs on Ray: one thin file a job here, what jobs are made of in the folders."""
