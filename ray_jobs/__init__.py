"""What runs on Ray: one thin file a job, and the few modules the jobs share."""
