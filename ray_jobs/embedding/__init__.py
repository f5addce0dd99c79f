"""Embedding on Ray actors, and the pictures of an evaluation."""
