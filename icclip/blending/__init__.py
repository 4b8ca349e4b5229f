"""Mixtures of two checkpoints (WiSE-FT)."""
