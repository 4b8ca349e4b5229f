"""Vector databases that an index is written to."""
