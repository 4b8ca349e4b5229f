"""The gate: what an export is compared by with its checkpoint, and what it has to keep to."""
