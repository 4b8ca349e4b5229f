"""Embed many inputs and write the embeddings to a file."""
