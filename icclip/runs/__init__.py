"""A run directory: its record, checkpoints, history and results. Imports nothing heavy."""
