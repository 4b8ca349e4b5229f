"""The gate: how an export is compared with its checkpoint, and which limits it must keep."""
