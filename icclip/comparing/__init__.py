"""Compare models query by query on one split."""
