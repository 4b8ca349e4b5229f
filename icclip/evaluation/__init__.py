"""Encode, rank, measure. Knows nothing of where embeddings come from."""
