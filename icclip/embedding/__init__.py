"""Embeddings of many inputs into a file."""
