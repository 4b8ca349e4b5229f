"""The way between two checkpoints."""
