"""Embeddings on actors: of a dataset or folder to Parquet, and of evaluation sets in memory."""
