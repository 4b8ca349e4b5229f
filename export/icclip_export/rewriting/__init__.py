"""Rewrite the exporter's graphs by pattern: the same embeddings, computed with less work."""
